"""Every code that the code can say, read from its enumerations and from its sources: nothing is listed by hand.

A code is a plain string at the place that says it. A place that says something else is named by `strangers`, so that
none is overlooked: the few that pass on what another place said are in PASSED_ON, with that place.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeGuard

from cloud.cli.client import CONFLICT, FAILED, NOT_ALLOWED, TIMED_OUT, USAGE
from cloud.cli.endings import INTERRUPTED
from cloud.demand import Refusal
from cloud.holding import HoldReason
from cloud.store import journal as hellos
from device_agent.trust import Distrust
from protocol.phases import Reason, Wait

REPOSITORY: Final = Path(__file__).parents[2]
PASSED_ON: Final = {
    ("cloud/api/enrolment.py", "error.code"): "RefusedError and CertificateError",
    ("cloud/api/problems.py", "error.code"): "ApiError",
    ("cloud/api/problems.py", "code"): "StoreError",
    ("cloud/api/problems.py", "code_of(error)"): "its own cases, and a code of the error's class",
    ("cloud/api/problems.py", "_HTTP_CODES.get(status, 'refused')"): "_HTTP_CODES",
    ("cloud/link.py", "error.code"): "ProtocolError",
    ("device_agent/fetching.py", "doubt.code.value"): "Distrust",
    ("cloud/reception.py", "answer.refusal"): "cloud.store.journal",
    ("cloud/reception.py", "refusal.value"): "Refusal",
    ("cloud/reception.py", "UNKNOWN_DEVICE"): "cloud.store.journal",
}
"""Where a code is no plain string, and whose it is."""


@dataclass(frozen=True, slots=True)
class Said:
    """A code as an argument, at a place: the string, or else the expression."""

    path: str
    line: int
    code: str | None
    expression: str


def trees(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of some rooms (directories or files) by its path."""
    for room in rooms:
        top = REPOSITORY / room
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            yield path.relative_to(REPOSITORY).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def arguments(rooms: Sequence[str], places: Mapping[str, int | str]) -> list[Said]:
    """The argument that is a code (by number or name) of every call of some functions, by the function's last name."""
    found = []
    for path, tree in trees(*rooms):
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func).rpartition(".")[2]
            if name not in places:
                continue
            value = _argument(call, places[name])
            if value is not None:
                found += [Said(path, call.lineno, code, ast.unparse(value)) for code in _strings(value)]
    return found


def class_codes(*rooms: str) -> set[str]:
    """What classes say their `code` is."""
    found = set()
    for _, tree in trees(*rooms):
        for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for line in kind.body:
                target = line.targets[0] if isinstance(line, ast.Assign) else None
                if isinstance(target, ast.Name) and target.id == "code" and isinstance(line, ast.Assign):
                    found |= set(filter(None, _strings(line.value)))
    return found


def strangers(said: Iterable[Said]) -> list[str]:
    """Places whose code cannot be read, and that pass on nobody's."""
    return [
        f"{it.path}:{it.line}: {it.expression}"
        for it in said
        if it.code is None and (it.path, it.expression) not in PASSED_ON
    ]


def server() -> list[Said]:
    """What answers of the API say."""
    calls: Mapping[str, int | str] = {"ApiError": 1, "problem": 2}
    return [*arguments(["cloud"], calls), *arguments(["cloud/store", "cloud/api"], {"RefusedError": 0})]


def server_codes() -> set[str]:
    """Every `error` that an answer of the API can have."""
    classes = class_codes("protocol/errors.py", "cloud/store/errors.py", "cloud/pki")
    return {it.code for it in server() if it.code} | _of_problems() | _http_codes() | classes


def messages() -> list[Said]:
    """Why messages are not processed, on both sides."""
    cloud = arguments(["cloud/link.py", "cloud/reception.py", "cloud/service.py"], {"_refuse": 2, "refuse": 1})
    noted = arguments(["cloud/reception.py"], {"note": 2})
    device = arguments(["device_agent/told.py"], {"RefusedError": 0})
    counted = arguments(["device_agent/fetching.py", "device_agent/contact.py"], {"_refuse": 0, "refuse": 0})
    return [*cloud, *noted, *device, *counted]


def message_codes() -> set[str]:
    """Every code of a message that is not processed."""
    spelled = {it.code for it in messages() if it.code}
    told = {hellos.UNKNOWN_PRODUCT, hellos.OTHER_PRODUCT, hellos.UNKNOWN_DEVICE, hellos.STALE_HELLO}
    wants = {refusal.value for refusal in Refusal}
    trust = {doubt.value for doubt in Distrust}
    return (
        spelled | told | wants | trust | class_codes("protocol/errors.py", "device_agent") | {"internal_error", "other"}
    )


def control_codes() -> set[str]:
    """Every `error` of the control socket."""
    said = arguments(["device_agent"], {"ControlError": "code"})
    assert strangers(said) == []
    return {it.code for it in said if it.code} | {"refused"}


def catalogue() -> dict[str, set[str]]:
    """Every code by the kind that it is of."""
    exits = (0, FAILED, USAGE, TIMED_OUT, NOT_ALLOWED, CONFLICT, INTERRUPTED)
    return {
        "": server_codes(),
        "reason": {reason.value for reason in Reason},
        "wait": {wait.value for wait in Wait} | {hold.value for hold in HoldReason},
        "message": message_codes(),
        "control": control_codes(),
        "exit": {str(code) for code in exits},
    }


def _argument(call: ast.Call, place: int | str) -> ast.expr | None:
    if isinstance(place, int):
        return call.args[place] if len(call.args) > place else None
    return next((keyword.value for keyword in call.keywords if keyword.arg == place), None)


def _strings(value: ast.expr) -> list[str | None]:
    """Return the string that an expression is, each that it may be, or None for one that cannot be read."""
    match value:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            return [*_strings(body), *_strings(orelse)]
        case ast.JoinedStr(values=[ast.Constant(value=str(start)), ast.FormattedValue(value=ast.Name(id="what"))]):
            return [f"{start}{what}" for what in ("desired", "notice")]  # device_agent/told.py
    return [None]


def _of_problems() -> set[str]:
    """What `problems` itself makes codes of: the cases of `code_of`, its default, and that of a failure of ours."""
    ((_, tree),) = trees("cloud/api/problems.py")
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    cases = [node.value for node in ast.walk(functions["code_of"]) if isinstance(node, ast.Return)]
    chosen = [node.value for node in ast.walk(functions["_ours"]) if isinstance(node, ast.Assign)]
    constants = (node.value for value in [*cases, *chosen] if value for node in ast.walk(value) if _is_text(node))
    return {str(text) for text in constants} - {"code", "WWW-Authenticate", "Bearer"}


def _is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _http_codes() -> set[str]:
    ((_, tree),) = trees("cloud/api/problems.py")
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_HTTP_CODES" and node.value is not None:
            values = node.value.values if isinstance(node.value, ast.Dict) else []
            return {code for value in values for code in _strings(value) if code} | {"refused"}
    raise AssertionError("cloud/api/problems.py has no _HTTP_CODES")
