"""The reference of the server's settings, from the models that read them."""

import ast
import inspect
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.generating.markdown import code, heading, page, plain, table

HEAD = ("key", "type", "left out", "what it is")


def settings(model: type[BaseModel]) -> str:
    """Return every table of a settings file with its keys, types, defaults and meaning; keys without a table first."""
    parts = []
    loose = {name: field for name, field in model.model_fields.items() if _section(field) is None}
    if loose:
        parts.append(_keys(model, loose))
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is not None:
            parts += [
                heading(2, code(f"[{name}]")),
                plain(inspect.getdoc(section) or ""),
                _keys(section, section.model_fields),
            ]
    return page(parts)


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return what a model's source says under each of its fields."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - inspect returns nothing else
    said = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                said[field.target.id] = inspect.cleandoc(value.value)
    return said


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _keys(model: type[BaseModel], fields: dict[str, FieldInfo]) -> str:
    said = docstrings(model)
    return table(
        HEAD,
        (
            (code(name), plain(_kind(field.annotation) + _bounds(field)), _default(field), plain(said.get(name, "")))
            for name, field in fields.items()
        ),
    )


def _kind(annotation: Any) -> str:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        names = {"str": "text", "int": "whole number", "bool": "true or false", "float": "number"}
        return names.get(annotation.__name__, annotation.__name__)
    options = [item for item in getattr(annotation, "__args__", ()) if item is not type(None)]
    if getattr(annotation, "__origin__", None) is list:
        return f"list of {_kind(options[0])}s"
    if all(isinstance(option, str) for option in options):
        return " or ".join(f'"{option}"' for option in options)
    return " or ".join(_kind(option) for option in options)


def _bounds(field: FieldInfo) -> str:
    low = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
    high = next((item.le for item in field.metadata if hasattr(item, "le")), None)
    if low is not None and high is not None:
        return f", {low} to {high}"
    return f", {low} or more" if low is not None else f", at most {high}" if high is not None else ""


def _default(field: FieldInfo) -> str:
    if field.default in (PydanticUndefined, None, []):
        return "nothing"
    return code(str(field.default).lower() if isinstance(field.default, bool) else field.default)
