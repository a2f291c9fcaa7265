"""The laws of the house as functions over syntax trees: each takes the modules and returns what breaks it."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

HOUSE = ("protocol", "cloud", "device_agent")
HEARTS = ("protocol.selection", "device_agent.machine", "cloud.planner", "cloud.guard")
SDK = "device_agent.sdk"  # one file to copy into an application
DOOR = "cloud.entry"  # turns a missing library into a sentence: the one module that imports in a function
MAX_LINES = 400
LONGER = {SDK: 460}  # which cannot be split

MAY_IMPORT = {
    "protocol": {"protocol"},
    "cloud": {"cloud", "protocol"},
    "device_agent": {"device_agent", "protocol"},
    "firmware_samples": {"firmware_samples", "device_agent"},
}
DEVICE_LIBRARIES = {"attr", "attrs", "cattrs", "click", "paho", "securesystemslib", "semver", "tuf"}
IMPURE = {
    *("asyncio", "threading", "multiprocessing", "concurrent", "queue", "subprocess", "signal", "selectors"),
    *("os", "pathlib", "io", "shutil", "tempfile", "socket", "sqlite3", "sqlmodel", "sqlalchemy"),
    *("paho", "aiomqtt", "tuf", "logging", "structlog", "time", "random", "secrets"),
}
IMPURE_CALLS = {"now", "utcnow", "today", "open", "print", "input"}
OFF_THE_NETWORK = {"device_agent.identity.certificates", "device_agent.identity.store"}
"""Make TLS contexts to look at certificates, and no connections."""
NO_NAMES = {"util", "utils", "common", "helper", "helpers", "base", "misc"}
ROOTS_OF_ERRORS = {"Exception", "BaseException"}

_Node = TypeVar("_Node", bound=ast.AST)
_FUNCTIONS: tuple[type[ast.stmt], ...] = (ast.FunctionDef, ast.AsyncFunctionDef)
_IMPORTS: tuple[type[ast.stmt], ...] = (ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Module:
    """A Python file: its path from the repository, its dotted name and its text."""

    path: str
    source: str

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    def imports(self) -> Iterator[tuple[str, int]]:
        """Every name imported anywhere, as `package.module.name`, and its line; relative ones begin with a dot."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = "." * node.level + (node.module or "")
                yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


Law = Callable[[Mapping[str, Module]], list[str]]


def read_house(sources: Mapping[str, str]) -> dict[str, Module]:
    """Return modules by dotted name from texts by path."""
    modules = (Module(path, source) for path, source in sources.items())
    return {module.name: module for module in modules}


def tracked_files(repository: Path) -> list[Path]:
    """Files that are, or would be, committed; outside a git checkout every file that is not hidden."""
    command = ("git", "-C", str(repository), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
        found = [repository / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = [path for path in repository.rglob("*") if not _is_hidden(path.relative_to(repository))]
    return sorted(path for path in found if path.is_file())


def imports_flow_one_way(modules: Mapping[str, Module]) -> list[str]:
    """`protocol` imports nobody of ours; the wings never import each other; samples know the SDK alone."""
    ours = set(MAY_IMPORT) | {"tests", "benchmarks"}
    return [
        f"{module.path}:{line}: {module.room} may not import {name}"
        for module in modules.values()
        if module.room in MAY_IMPORT
        for name, line in module.imports()
        if (root := name.partition(".")[0]) in ours
        if (root not in MAY_IMPORT[module.room] and not _shows_samples(module, name))
        or (module.room == "firmware_samples" and root == "device_agent" and not name.startswith(SDK))
    ]


def _shows_samples(module: Module, name: str) -> bool:
    """The demonstration builds the firmware that it shows."""
    return module.name.startswith("cloud.demo.") and name.startswith("firmware_samples.build")


def no_module_has_a_name_that_says_nothing(modules: Mapping[str, Module]) -> list[str]:
    """No utils, common, helpers, base."""
    return [module.path for module in modules.values() if NO_NAMES & set(module.name.split("."))]


def imports_stand_at_the_top_and_are_absolute(modules: Mapping[str, Module]) -> list[str]:
    """No relative imports, no imports inside functions, and no importlib in place of one (but in the door)."""
    found = []
    for module in modules.values():
        found += [f"{module.path}:{line}: relative import" for name, line in module.imports() if name.startswith(".")]
        if module.name == DOOR:
            continue
        for function in _nodes(module.tree, *_FUNCTIONS):
            found += [f"{module.path}:{node.lineno}: import inside a function" for node in _nodes(function, *_IMPORTS)]
        found += [
            f"{module.path}:{call.lineno}: {_called(call)} in place of an import"
            for call in _nodes(module.tree, ast.Call)
            if _called(call) in {"import_module", "__import__"}
        ]
    return found


def imports_make_no_circle(modules: Mapping[str, Module]) -> list[str]:
    """Modules of ours can be put in an order in which each imports only earlier ones."""
    graph = {module.name: set(_imported_modules(module, modules)) - {module.name} for module in modules.values()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" imports ".join(reversed(error.args[1]))]
    return []


def hearts_are_pure(modules: Mapping[str, Module]) -> list[str]:
    """The hearts, and every module of ours they import, know no I/O, no clock, no chance and no log."""
    found = []
    hearts = [name for name in modules if any(name == heart or name.startswith(f"{heart}.") for heart in HEARTS)]
    for heart in hearts:
        for module in (modules[name] for name in _reachable(heart, modules)):
            found += [
                f"{module.path}:{line}: imports {name}, and {heart} rests on it"
                for name, line in module.imports()
                if name.partition(".")[0] in IMPURE
            ]
        found += [
            f"{modules[heart].path}:{call.lineno}: calls {_called(call)}()"
            for call in _nodes(modules[heart].tree, ast.Call)
            if _called(call) in IMPURE_CALLS
        ]
    return found


def devices_need_only_their_libraries(modules: Mapping[str, Module]) -> list[str]:
    """`protocol` and `device_agent` import the required set alone; accelerators only under `except ImportError`."""
    found = []
    for module in modules.values():
        if module.room not in {"protocol", "device_agent"}:
            continue
        allowed = set(sys.stdlib_module_names) | DEVICE_LIBRARIES | set(HOUSE)
        if module.name == SDK:
            allowed = set(sys.stdlib_module_names)
        optional = _optional_lines(module.tree)
        found += [
            f"{module.path}:{line}: {name} is not on every device"
            for name, line in module.imports()
            if name.partition(".")[0] not in allowed and (line not in optional or module.name == SDK)
        ]
    return found


def only_a_cli_constructs(modules: Mapping[str, Module]) -> list[str]:
    """Nobody imports a `cli` but its own parts, the door and the demo: what constructs stands at the very top."""
    return [
        f"{module.path}:{line}: imports {name}"
        for module in modules.values()
        if module.room in HOUSE and module.name.split(".")[1:2] not in (["cli"], ["demo"], ["entry"])
        for name, line in module.imports()
        if re.match(r"(cloud|device_agent)\.cli\b", name)
    ]


def errors_are_one_tree(modules: Mapping[str, Module]) -> list[str]:
    """Every class that is raised ends in Error and descends from FleetliftError (the copied SDK has its own root)."""
    found = []
    bases = {
        node.name: [ast.unparse(base).rpartition(".")[2] for base in node.bases]
        for module in modules.values()
        if module.room in HOUSE and module.name != SDK
        for node in _nodes(module.tree, ast.ClassDef)
    }
    for name in bases:
        line = _ancestors(name, bases)
        if name.endswith("Error") and name != "FleetliftError" and "FleetliftError" not in line:
            found.append(f"{name} does not descend from FleetliftError")
        if not name.endswith("Error") and line & (ROOTS_OF_ERRORS | {"FleetliftError"}):
            found.append(f"{name} is an error by descent, but not by name")
    return found


def modules_are_of_human_size(modules: Mapping[str, Module]) -> list[str]:
    """No module is longer than `MAX_LINES`."""
    return [
        f"{module.path}: {lines} lines"
        for module in modules.values()
        if (lines := module.source.count("\n")) > LONGER.get(module.name, MAX_LINES)
    ]


def files_begin_by_saying_what_they_are(modules: Mapping[str, Module]) -> list[str]:
    """Line one of each file is a docstring, a sentence."""
    found = []
    for module in modules.values():
        first = module.tree.body[0] if module.tree.body else None
        said = ast.get_docstring(module.tree) or ""
        if first is None or first.lineno != 1 or not said.partition("\n")[0].rstrip().endswith((".", ":", "?")):
            found.append(module.path)
    return found


def tls_contexts_say_how_old_they_may_be(modules: Mapping[str, Module]) -> list[str]:
    """Who makes a TLS context sets its minimum version: some distributions' Python has none by itself."""
    return [
        f"{module.path}:{node.lineno}: a TLS context, and no minimum_version"
        for module in modules.values()
        if module.room in HOUSE and module.name not in OFF_THE_NETWORK
        for node in _nodes(module.tree, ast.Call)
        if ast.unparse(node.func).rpartition(".")[2] in {"create_default_context", "SSLContext"}
        and "minimum_version" not in module.source
    ]


LAWS: tuple[Law, ...] = (
    imports_flow_one_way,
    no_module_has_a_name_that_says_nothing,
    imports_stand_at_the_top_and_are_absolute,
    imports_make_no_circle,
    hearts_are_pure,
    devices_need_only_their_libraries,
    only_a_cli_constructs,
    errors_are_one_tree,
    modules_are_of_human_size,
    files_begin_by_saying_what_they_are,
    tls_contexts_say_how_old_they_may_be,
)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _nodes(tree: ast.AST, *kinds: type[_Node]) -> Iterator[_Node]:
    return (node for node in ast.walk(tree) if isinstance(node, kinds))


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _imported_modules(module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    for name, _ in module.imports():
        target = name if name in modules else name.rpartition(".")[0]
        if target in modules:
            yield target


def _reachable(start: str, modules: Mapping[str, Module]) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _imported_modules(modules[name], modules)
    return reached


def _ancestors(name: str, bases: Mapping[str, list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(bases.get(name, ()))
    while waiting:
        base = waiting.pop()
        if base not in found:
            found.add(base)
            waiting += bases.get(base, ())
    return found


def _optional_lines(tree: ast.Module) -> set[int]:
    """Lines of imports whose absence is caught at the top of a module."""
    tries = [node for node in tree.body if isinstance(node, ast.Try) and _catches_import_error(node.handlers)]
    return {
        line
        for attempt in tries
        for statement in attempt.body
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }


def _catches_import_error(handlers: Iterable[ast.ExceptHandler]) -> bool:
    return any(
        handler.type is not None and ast.unparse(handler.type) in {"ImportError", "ModuleNotFoundError"}
        for handler in handlers
    )
