"""The reference of the HTTP API, from its own OpenAPI document and from the rules of who may do what."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast

from cloud.access.rules import RULES, Subject
from cloud.api.app import create_app
from cloud.api.backend import Backend
from cloud.api.problems import ANSWERS
from cloud.config import Settings
from docs.generating.markdown import code, heading, page, plain, table

Schema = Mapping[str, Any]
USUAL: Final = {str(status) for status in ANSWERS}
"""Refusals that any route may answer."""
ABOUT: Final = {
    Subject.SERVER: "for `*`",
    Subject.ANY: "for any product; of others nothing is shown",
    Subject.KNOWN: "for anything",
    Subject.BODY_OR_ALL: "for the product in the body, or `*` without one",
    Subject.METADATA: "for the products whose roles are sent, or `*` for root and targets",
    Subject.PERSON: "for `*`, or about oneself",
    Subject.TOKEN: "for `*`, or about one's own",
}
OF_WHAT: Final = "for the product that it is about"


class _Parts:
    """A server's parts of which nothing is asked but the settings: routes are only put together, never served."""

    settings = Settings()

    def __getattr__(self, name: str) -> "_Parts":
        return self


def document() -> dict[str, Any]:
    """Return the OpenAPI document; nothing of a server is needed for it but its settings."""
    return create_app(cast("Backend", _Parts())).openapi()


def api() -> str:
    """Return every operation by its tag, and the shape of everything that is sent and answered."""
    found = document()
    by_tag: dict[str, list[str]] = {}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["others"])[0]
            by_tag.setdefault(tag, []).append(_operation(path, method, operation))
    parts = [page([heading(2, tag.capitalize()), *operations]) for tag, operations in sorted(by_tag.items())]
    schemas = found["components"]["schemas"]
    return page([*parts, heading(2, "Shapes"), *(_shape(name, schemas[name]) for name in sorted(schemas))])


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    name = operation["operationId"]
    rule = RULES.get(name)
    said = operation.get("description", "")
    who = f"Role: {code(rule.role.value)}, {ABOUT.get(rule.of, OF_WHAT)}. " if rule else ""
    return page(
        [
            heading(3, code(f"{method.upper()} {path}")),
            plain(said),
            f"{who}Operation: {code(name)}.",
            table(
                ("parameter", "in", "type", "what it is"), (_parameter(it) for it in operation.get("parameters", ()))
            ),
            _sent(operation),
            _answered(operation),
        ]
    )


def _parameter(parameter: Mapping[str, Any]) -> tuple[str, str, str, str]:
    schema = parameter.get("schema", {})
    default = f" Left out: {code(schema['default'])}." if schema.get("default") is not None else ""
    needed = "" if parameter.get("required") or default else " May be left out."
    return (
        code(parameter["name"]),
        parameter["in"],
        _kind(schema),
        f"{plain(parameter.get('description', ''))}{default}{needed}",
    )


def _sent(operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    kinds = [f"{_kind(body.get('schema', {}))} ({code(media)})" for media, body in content.items()]
    return f"Body: {', '.join(kinds)}." if kinds else ""


def _answered(operation: Mapping[str, Any]) -> str:
    lines = []
    for status, answer in operation["responses"].items():
        if status in USUAL:
            continue
        kinds = [f"{_kind(body.get('schema', {}))}" for body in answer.get("content", {}).values()]
        lines.append(f"{code(f'{status} {HTTPStatus(int(status)).phrase}')} {', '.join(filter(None, kinds))}".strip())
    return f"Answers: {'; '.join(lines)}." if lines else ""


def _shape(name: str, schema: Schema) -> str:
    required: Sequence[str] = schema.get("required", ())
    rows = [
        (
            code(field),
            _kind(kind),
            plain(kind.get("description", "")) + ("" if field in required else " May be left out."),
        )
        for field, kind in schema.get("properties", {}).items()
    ]
    values = f"One of {', '.join(map(code, schema['enum']))}." if "enum" in schema else ""
    return page(
        [
            heading(3, f"{name}"),
            plain(schema.get("description", "")),
            values,
            table(("field", "type", "what it is"), rows),
        ]
    )


def _kind(schema: Schema) -> str:
    """Return a type in a few words; one with a name links to its shape."""
    many: Sequence[Schema] = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or ()
    match schema:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            said = f"[{name}](#{name.lower()})"
        case _ if many:
            said = " or ".join(dict.fromkeys(map(_kind, many)))
        case {"enum": values}:
            said = " or ".join(map(code, values))
        case {"const": value}:
            said = code(value)
        case {"type": "array"}:
            said = f"list of {_kind(schema.get('items') or next(iter(schema.get('prefixItems', ())), {}))}"
        case {"type": "object", "additionalProperties": {"$ref": _} | {"type": _} as values}:
            said = f"map to {_kind(values)}"
        case _:
            said = str(schema.get("type", "any"))
    return said
