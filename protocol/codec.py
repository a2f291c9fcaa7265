"""Strict JSON for control messages: what is not exactly right is refused by name, and unknown fields are tolerated."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Any, Final, NoReturn, TypeVar, Union, cast, get_args, get_origin

import cattrs
from cattrs.errors import BaseValidationError, IterableValidationError, IterableValidationNote

from protocol.errors import MessageError, ProtocolError
from protocol.identity import MAX_INTEGER

MAX_MESSAGE_BYTES: Final = 128 * 1024 - 1024
"""The largest control message; with its topic and headers it stays below 128 KiB."""
MAX_DEPTH: Final = 16
MAX_REPORTED_ERRORS: Final = 3

T = TypeVar("T")


def decode(payload: bytes | bytearray | str, kind: type[T], *, max_bytes: int = MAX_MESSAGE_BYTES) -> T:
    """Return `payload` as a `kind` (a frozen dataclass); raises MessageError that names what is wrong."""
    return structure(decode_json(payload, kind.__name__, max_bytes=max_bytes), kind)


def structure(value: object, kind: type[T]) -> T:
    """Return plain JSON values as a `kind`; raises MessageError that names what is wrong."""
    try:
        return _converter().structure(value, kind)
    except (BaseValidationError, ProtocolError, ValueError, TypeError) as error:
        reasons = cattrs.transform_error(error, format_exception=_describe)
        raise MessageError(f"{kind.__name__}: " + "; ".join(reasons[:MAX_REPORTED_ERRORS])[:500]) from None


def decode_json(payload: bytes | bytearray | str, name: str, *, max_bytes: int = MAX_MESSAGE_BYTES) -> dict[str, Any]:
    """Return a JSON object's fields; refuses what RFC 8259 leaves open (duplicate keys, NaN, depth) by name."""
    if len(payload) > max_bytes:
        raise MessageError(f"{name}: {len(payload)} bytes, at most {max_bytes} are read")
    try:
        text = payload if isinstance(payload, str) else payload.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_bounded_int)
    except UnicodeDecodeError:
        raise MessageError(f"{name}: not UTF-8") from None
    except RecursionError:
        raise MessageError(f"{name}: nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise MessageError(f"{name}: not JSON: {error}"[:200]) from None
    if not isinstance(value, dict):
        raise MessageError(f"{name}: a JSON object is expected")
    _check_depth(value, name)
    if "\\ud" in text or "\\uD" in text:
        check_encodable(value, name)
    return value


def encode(message: object) -> bytes:
    """Return a message as compact UTF-8 JSON; fields that are None are left out; raises MessageError over the cap."""
    text = json.dumps(to_plain(message), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    payload = text.encode()
    if len(payload) > MAX_MESSAGE_BYTES:
        raise MessageError(f"{type(message).__name__}: {len(payload)} bytes, at most {MAX_MESSAGE_BYTES} are sent")
    return payload


def to_plain(value: object) -> Any:
    """Return a message as dicts, lists, strings and numbers, as it would be encoded."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_plain(item) for name, item in fields if item is not None}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset):
        items = sorted(value) if isinstance(value, frozenset) else value
        return [to_plain(item) for item in items]
    return value.value if isinstance(value, Enum) else value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        known: set[str] = set()
        twice = next(key for key, _ in pairs if key in known or known.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.60} stands twice")
    return fields


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _bounded_int(text: str) -> int:
    if len(text) > len(str(-MAX_INTEGER)) or abs(value := int(text)) > MAX_INTEGER:
        raise ValueError("an integer beyond 2**53 - 1")
    return value


def _check_depth(value: object, name: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise MessageError(f"{name}: nested deeper than {MAX_DEPTH}")


def check_encodable(value: object, name: str) -> None:
    """Raise MessageError for half a character: JSON can escape a surrogate without its other half, and UTF-8 not."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MessageError(f"{name}: a lone surrogate is not text") from None


def _describe(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return f"the field {error.args[0]!r} is missing"
    if isinstance(error, IterableValidationError):
        return "a list item is wrong"
    del kind
    return str(error)


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    for kind in (int, str, bool):
        converter.register_structure_hook(kind, functools.partial(_exactly, kind))
    # By class, not by predicate: a StrEnum is a str, whose hook would take it as it comes.
    converter.register_structure_hook(StrEnum, _structure_enum)
    converter.register_structure_hook_factory(
        lambda kind: _origin(kind) in (tuple, list, frozenset), lambda kind: _listed(converter, kind)
    )
    converter.register_structure_hook_factory(
        lambda kind: _origin(kind) in (dict, Mapping), lambda kind: _mapped(converter, kind)
    )
    converter.register_structure_hook_factory(dataclasses.is_dataclass, lambda kind: _object(converter, kind))
    converter.register_structure_hook_factory(_is_optional, lambda kind: _optional(converter, kind))
    return converter


def _exactly(wanted: type, value: object, _kind: object) -> object:
    # bool is an int to Python, and 1.0 equals 1: neither is an integer on the wire.
    if type(value) is not wanted:
        raise ValueError(f"{wanted.__name__} expected, not {type(value).__name__}")
    return value


def _structure_enum(value: object, kind: type[StrEnum]) -> StrEnum:
    try:
        return kind(cast("str", value))
    except ValueError:
        raise ValueError(f"{value!r:.60} is not one of {', '.join(str(item.value) for item in kind)}") from None


def _listed(converter: cattrs.Converter, kind: Any) -> Any:
    item_kind, wrap = get_args(kind)[0], cast("type", get_origin(kind))
    hook = converter.get_structure_hook(item_kind)

    def structure(value: object, _kind: object) -> object:
        if not isinstance(value, list):
            raise ValueError(f"list expected, not {type(value).__name__}")  # noqa: TRY004 - cattrs groups ValueError
        found, errors = [], _Errors(kind)
        for index, item in enumerate(value):
            try:
                found.append(hook(item, item_kind))
            except Exception as error:  # noqa: BLE001 - as cattrs does: they are told together
                errors.add(error, index, item_kind)
        errors.tell()
        return wrap(found)

    return structure


def _mapped(converter: cattrs.Converter, kind: Any) -> Any:
    key_kind, item_kind = get_args(kind)
    key_hook, hook = converter.get_structure_hook(key_kind), converter.get_structure_hook(item_kind)

    def structure(value: object, _kind: object) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"object expected, not {type(value).__name__}")  # noqa: TRY004
        found, errors = {}, _Errors(kind)
        for key, item in value.items():
            try:
                found[key_hook(key, key_kind)] = hook(item, item_kind)
            except Exception as error:  # noqa: BLE001 - the same
                errors.add(error, key, item_kind)
        errors.tell()
        return found

    return structure


class _Errors:
    """What is wrong with the items of one list or object, noted as cattrs does, so that its paths name them.

    cattrs itself collects all of it: a message of 128 KiB could cost a hundred megabytes and a second.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._errors: list[Exception] = []

    def add(self, error: Exception, index: int | str, item_kind: Any) -> None:
        """Note one; raises what there is as soon as nobody would be told of more."""
        error.add_note(IterableValidationNote(f"Structuring {self._kind} @ {index!r:.80}", index, item_kind))
        self._errors.append(error)
        if len(self._errors) == MAX_REPORTED_ERRORS:
            self.tell()

    def tell(self) -> None:
        """Raise what there is, if there is any."""
        if self._errors:
            raise IterableValidationError(f"While structuring {self._kind}", self._errors, self._kind)


def _object(converter: cattrs.Converter, kind: Any) -> Any:
    inner = cattrs.gen.make_dict_structure_fn(kind, converter)

    def structure(value: object, _kind: object) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"object expected, not {type(value).__name__}")  # noqa: TRY004
        return inner(value, kind)

    return structure


def _origin(kind: Any) -> object:
    return get_origin(kind)


def _is_optional(kind: object) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _optional(converter: cattrs.Converter, kind: Any) -> Any:
    (inner,) = (item for item in get_args(kind) if item is not type(None))

    def structure(value: object, _kind: object) -> object:
        return None if value is None else converter.structure(value, inner)

    return structure
