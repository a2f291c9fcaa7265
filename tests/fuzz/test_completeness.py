"""The table of targets is whole: nothing that takes bytes is without one, and docs/fuzzing.md says what there is."""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import protocol
from cloud.link import KINDS
from protocol import down
from tests.fuzz.parsers.every import ROOMS, TARGETS

DOCUMENT = Path(__file__).parents[2] / "docs" / "fuzzing.md"
OUR_OWN = {
    "protocol.chunks.describe": "of an image on this machine, of any content",
    "protocol.chunks.pack_chunk": "makes a message",
    "protocol.enrolment.make_token": "of random bytes",
    "protocol.signing.pae": "makes what is signed",
    "protocol.signing.seal": "makes a message",
}
"""What takes bytes, and takes them from nobody else."""


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public functions and methods of the protocol."""
    for module in pkgutil.iter_modules(protocol.__path__, "protocol."):
        for name, value in vars(sys.modules[module.name]).items():  # the targets import them all
            if name.startswith("_") or getattr(value, "__module__", None) != module.name:
                continue
            if inspect.isfunction(value):
                yield f"{module.name}.{name}", value
            elif inspect.isclass(value):
                for method, inner in vars(value).items():
                    plain = getattr(inner, "__func__", inner)
                    if inspect.isfunction(plain) and not method.startswith("_"):
                        yield f"{module.name}.{name}.{method}", plain


def test_every_function_of_the_protocol_that_takes_bytes_is_a_targets() -> None:
    covered = {name for target in TARGETS.values() for name in target.covers}
    taking = {
        name
        for name, function in functions()
        if any("bytes" in str(kind) for what, kind in function.__annotations__.items() if what != "return")
    }
    assert len(taking) > 6
    assert sorted(taking - covered - OUR_OWN.keys()) == []
    assert sorted(OUR_OWN.keys() - taking) == []


def test_every_parser_of_text_of_the_protocol_is_a_targets() -> None:
    covered = {name for target in TARGETS.values() for name in target.covers}
    parsers = {name for name, _ in functions() if re.search(r"\.(parse|check_\w+|read_\w+|unseal|from_custom)$", name)}
    values = {f"protocol.values.check_{what}" for what in ("text", "number", "few")}  # of what was decoded already
    assert sorted(parsers - covered - values) == []


def test_every_message_is_a_targets() -> None:
    kinds = (*KINDS.values(), down.Desired, down.Notice, down.Ack, down.Metadata, down.Bundle)
    assert {f"message.{kind.__name__}" for kind in kinds} <= TARGETS.keys()


def test_what_is_covered_exists() -> None:
    for target in TARGETS.values():
        assert target.covers, target.name
        for name in target.covers:
            module, _, rest = name.rpartition(".")
            if module not in sys.modules:
                module, _, outer = module.rpartition(".")
                assert hasattr(getattr(sys.modules[module], outer), rest), name
            else:
                assert hasattr(sys.modules[module], rest), name


def test_the_document_has_the_table_of_targets() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [name for name, _ in rows] == list(TARGETS)
    for name, rest in rows:
        for part in TARGETS[name].covers:
            assert f"`{part}`" in rest, f"{part} is not in the row of {name}"


def test_names_are_told_apart() -> None:
    assert len(TARGETS) == sum(len(targets) for targets in ROOMS.values())
    assert all(re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in TARGETS)
