"""Completion of names on the shell's command line, asked of the server: in a bounded time, silently, kept nowhere.

What a word names is known by its metavar: every `P` is a product, every `DEVICE` a device's id.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from cloud.cli.client import FAILED, AnsweredError, ApiClient, Json
from cloud.cli.contexts import Contexts
from cloud.cli.operating import Operator

GIVE_UP_S: Final = 1.5
MOST: Final = 200
CONTEXT: Final = "CONTEXT"
Known = Mapping[str, str | None]
"""What the line has said so far, and the context where it has not: product, group, component."""


def _products(api: ApiClient, _known: Known, _begun: str) -> Iterable[str]:
    return (item["product"] for item in api.get("products"))


def _groups(api: ApiClient, known: Known, _begun: str) -> Iterable[str]:
    return (item["group"] for item in api.get("groups", product=known["product"]))


def _firmware(api: ApiClient, known: Known) -> list[Json]:
    found: list[Json] = api.get("firmware", product=known["product"], component=known["component"])
    return found


def _components(api: ApiClient, known: Known, _begun: str) -> Iterable[str]:
    return (item["component"] for item in _firmware(api, {**known, "component": None}))


def _versions(api: ApiClient, known: Known, _begun: str) -> Iterable[str]:
    return (item["version"] for item in _firmware(api, known))


def _labels(api: ApiClient, known: Known, _begun: str) -> Iterable[str]:
    pages = api.get("releases", **{**known, "group": known["group"] or "everyone"})
    return (f"v{page['release']['label']}" for page in pages)


def _devices(api: ApiClient, known: Known, begun: str) -> Iterable[str]:
    page = api.get("devices", product=known["product"], after=_just_before(begun), limit=MOST)
    return (item["device_id"] for item in page["devices"])


def _models(api: ApiClient, _known: Known, _begun: str) -> Iterable[str]:
    return (model for item in api.get("products") for model in item["hardware_models"])


def _roles(api: ApiClient, known: Known, begun: str) -> Iterable[str]:
    return ("root", "targets", "online", *_products(api, known, begun))


def _named(path: str, *fields: str) -> Callable[[ApiClient, Known, str], Iterable[str]]:
    def names(api: ApiClient, _known: Known, _begun: str) -> Iterable[str]:
        for item in api.get(path):
            for field in fields:
                item = item[field]  # noqa: PLW2901 - one step in
            yield item

    return names


def _just_before(begun: str) -> str | None:
    """Return what sorts before all that begins so, and after nearly everything else."""
    return f"{begun[:-1]}{chr(ord(begun[-1]) - 1)}zzz" if begun else None


FINDERS: Final[Mapping[str, Callable[[ApiClient, Known, str], Iterable[str]]]] = {
    "P": _products,
    "PRODUCT": _products,
    "G": _groups,
    "GROUP": _groups,
    "C": _components,
    "V": _versions,
    "VERSION": _versions,
    "RELEASE": _labels,
    "DEVICE": _devices,
    "MODEL": _models,
    "ROLE": _roles,
    "WEBHOOK": _named("webhooks", "name"),
    "SET": _named("sets", "name"),
    "PERSON": _named("people", "name"),
    "API-TOKEN": _named("tokens", "name"),
    "TOKEN": _named("enrolment-tokens", "name"),
}
"""What the words of a metavar are, without its dots and brackets."""
FILES_TOO: Final = "IMAGE|VERSION"


class NameType(click.types.StringParamType):
    """The name of something that the server knows."""

    def __init__(self, metavar: str) -> None:
        """Take what is named, as in FINDERS."""
        self.metavar = metavar

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so; none when they cannot be had."""
        del param
        if self.metavar == CONTEXT:
            return _items(_quietly(Contexts.of_user().names), incomplete)
        operator = ctx.ensure_object(Operator)
        if self.metavar != FILES_TOO:
            return _items(_quietly(lambda: _ask(operator, ctx, self.metavar, incomplete)), incomplete)
        versions = _items(_quietly(lambda: _ask(operator, ctx, "VERSION", incomplete)), incomplete)
        return [*versions, CompletionItem(incomplete, type="file")]


def complete_by_metavar(parameters: Sequence[click.Parameter]) -> None:
    """Let the parameters that name something be completed."""
    for parameter in parameters:
        default = (parameter.name or "").upper() if isinstance(parameter, click.Argument) else ""
        metavar = (parameter.metavar or default).strip("[].")
        if (metavar in FINDERS or metavar in (CONTEXT, FILES_TOO)) and parameter.type is click.STRING:
            parameter.type = NameType(metavar)


def suggested(ctx: click.Context, parameters: Sequence[click.Parameter], error: AnsweredError) -> AnsweredError:
    """Return a refusal of a name with the one that may be meant, of those that whoever asks may see."""
    text = str(error)
    if error.exit_code != FAILED or "Did you mean" in text:
        return error
    for parameter in parameters:
        if isinstance(parameter.type, NameType) and parameter.type.metavar in FINDERS:
            said = ctx.params.get(parameter.name or "")
            for name in said if isinstance(said, tuple) else (said,):
                if name and repr(name) in text and (close := _meant(ctx, parameter.type.metavar, name)):
                    sentence = f"{text.rstrip('.')}. Did you mean {close[0]!r}?"
                    return AnsweredError(sentence, exit_code=error.exit_code, where=error.where)
    return error


def _meant(ctx: click.Context, metavar: str, name: str) -> list[str]:
    operator = ctx.ensure_object(Operator)
    known = _quietly(lambda: _ask(operator, ctx, metavar, ""))
    return difflib.get_close_matches(name, known, n=1)


def _ask(operator: Operator, ctx: click.Context, metavar: str, begun: str) -> list[str]:
    said: Mapping[str, Any] = ctx.params
    known = {
        "product": said.get("product") or operator.context.product,
        "group": said.get("group"),
        "component": said.get("component") or operator.context.component,
    }
    with closing(operator.client(GIVE_UP_S)) as api:
        return list(FINDERS[metavar](api, known, begun))


def _quietly(names: Callable[[], list[str]]) -> list[str]:
    try:
        return names()
    except Exception:  # noqa: BLE001 - whatever is wrong, a person who presses Tab is not told of it
        return []


def _items(names: Iterable[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(begun)][:MOST]
