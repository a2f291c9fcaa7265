"""Makes inputs of inputs: some bytes wrong, or the structure whole and what it says wrong."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from tests.fuzz.json_spans import quoted, spans_of, unquoted
from tests.fuzz.targets import MAX_INPUT_BYTES, Shape

NUMBERS: Final = (0, 1, 2, 7, 8, 16, 31, 32, 63, 64, 65, 127, 128, 255, 256, 512, 1024, 4096, 65535, 65536, 2**31 - 1)
NUMBERS_TOO: Final = (2**31, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
DIGEST: Final = b"a" * 64
JSON_VALUES: Final = (
    b"null", b"true", b"false", b"{}", b"[]", b'""', b"[null]", b'{"":null}', b"NaN", b"Infinity", b"-Infinity",
    b"1e400", b"-1e400", b"1.0", b"0.1", b"-0", b"-0.0", b"01", b"1E5", b"-1", b"0" * 30,
    *(str(number).encode() for number in (*NUMBERS, *NUMBERS_TOO)),
    *(str(-number).encode() for number in NUMBERS_TOO),
    b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\n"', b'"a\\n"',
    '"\u0661"'.encode(),
    '"1.0.\u0661"'.encode(), b'"1.0.0\\n"', b'"*"', b'"||"', b'">=1.0.0 <2.x"', b'"build>=7"', b'"../../etc/passwd"',
    b'"/"', b'"a/b"', b'"+"', b'"#"', b'"everyone"', b'"identity"', b'"xz"', b'"1.0.0"', b'"999999999999.0.0-rc.1+b"',
    b'"' + DIGEST + b'"', b'"' + DIGEST.upper() + b'"', b'"' + b"x" * 300 + b'"',
    b'"2026-11-21T00:00:00Z"', b'"0001-01-01T00:00:00Z"', b'"9999-12-31T23:59:59Z"', b'"1.root.json"', b'"{}"', b'"[]"',
    b"[" * 10 + b"]" * 10, b"[" * 20 + b"]" * 20, b'{"a":' * 18 + b"1" + b"}" * 18,
)  # fmt: skip
JSON_HUGE: Final = (
    b"[" * 60_000, b'{"a":' * 30_000, b"[" * 60_000 + b"]" * 60_000, b"1" * 5000, b"-" + b"9" * 100_000, b"0" * 5000,
    b'"' + b"a-" * 40_000 + b'"', b'"' + b"\\" * 40_000 + b'"', b'"' + b"\\u00e9" * 15_000 + b'"',
    b"[" + b"0," * 60_000 + b"0]", b"[" + b"{}," * 40_000 + b"{}]",
    b"{" + b",".join(b'"%d":0' % number for number in range(13_000)) + b',"0":1}',
)  # fmt: skip
BATCH: Final = 64
_NUMBER = re.compile(rb"-?[0-9]{1,40}")
JSON_KEYS: Final = (b'""', b'"x"', b'"seq"', b'"__class__"', b'"\\ud800"', b'"\\u0000"', b'"' + b"k" * 300 + b'"')
BYTES: Final = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", b"\r\n", b" ", b'"', b"{", b"}", b"[", b"\\", b"\xc0\x80")
CONTROL: Final = (b"%s", b"%n", b"../", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xe2\x80\xa8", "\u0663".encode())

Edit = tuple[int, int, bytes]
"""Where, and what stands there instead."""


class Mutator:
    """Makes inputs of one shape; `words` are bits that mean something to the parser.

    It stays with one of the corpus for BATCH inputs, because to find its way in it costs more than to change it.
    """

    def __init__(self, shape: Shape, words: Sequence[bytes] = ()) -> None:
        self._words = (*words, *BYTES, *CONTROL)
        self._shape = shape
        self._left = 0
        self._base = b""
        self._spans = spans_of(b"")

    def mutated(self, corpus: Sequence[bytes], rng: random.Random) -> bytes:
        """Return one of the corpus with one to a few things wrong, or now and then nothing but noise."""
        if self._left == 0:
            self._left = BATCH
            self._base = rng.choice(corpus)
            self._spans = spans_of(self._base if self._shape == "json" else b"")
        self._left -= 1
        kind = rng.random()
        if kind < 0.005:
            return rng.randbytes(rng.choice((0, 1, 2, 11, 12, 13, 64, 200, 5000)))
        times = rng.choice((1, 1, 1, 1, 2, 2, 3, 6))
        content = self._base
        if self._shape == "json" and kind > 0.08 and self._spans.values:
            content = self._edited(times, rng, corpus)
        else:
            for _ in range(times):
                lines = self._shape == "text" and rng.random() < 0.6
                content = (self._lines if lines else self._bytes)(content, rng, corpus)
        return content[:MAX_INPUT_BYTES]

    # Bytes

    def _bytes(self, content: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
        begin = rng.randrange(len(content) + 1)
        end = min(len(content), begin + rng.choice((0, 1, 1, 2, 4, 8, 40, 1000)))
        before, cut, after = content[:begin], content[begin:end], content[end:]
        instead = b""
        match rng.randrange(9):
            case 0:
                after = b""
            case 1:
                instead = rng.choice(self._words)
            case 2:
                instead = rng.choice(self._words) + cut
            case 3:
                instead = cut * rng.choice((2, 3, 10, 300))
            case 4 if cut:
                instead = bytes((cut[0] ^ (1 << rng.randrange(8)),)) + cut[1:]
            case 5:
                width: int = rng.choice((1, 2, 4, 8))
                number = rng.choice((*NUMBERS, *NUMBERS_TOO[:7])) % (1 << 8 * width)
                instead, after = number.to_bytes(width, rng.choice(("big", "little"))), content[begin + width :]
            case 6:
                other = rng.choice(corpus)
                place = rng.randrange(len(other) + 1)
                instead = other[place : place + rng.choice((4, 40, 4000))]
            case 7:
                instead = rng.randbytes(rng.choice((1, 2, 8, 64)))
        return before + instead + after

    # Lines (TOML, and whatever people write)

    def _lines(self, content: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
        lines = content.split(b"\n")
        at = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), lines[at])
            case 2:
                lines.insert(at, rng.choice(rng.choice(corpus).split(b"\n")))
            case 3 if b"=" in lines[at]:
                key, _, _ = lines[at].partition(b"=")
                lines[at] = key + b"= " + self._scalar(rng)
            case 4:
                lines[at] = lines[at] + b" " + self._scalar(rng)
            case _:
                lines[at] = lines[at].replace(b"=", b" = { a = ", 1) + b" }"
        return b"\n".join(lines)

    def _scalar(self, rng: random.Random) -> bytes:
        return rng.choice((rng.choice(JSON_VALUES), rng.choice(self._words), b"'''", b"1979-05-27", b"nan", b"inf"))

    # JSON

    def _edited(self, times: int, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
        content, end_of_last = self._base, len(self._base) + 1
        for begin, end, instead in sorted((self._edit(rng, corpus) for _ in range(times)), reverse=True):
            if end <= end_of_last:
                content, end_of_last = content[:begin] + instead + content[end:], begin
        return content

    def _edit(self, rng: random.Random, corpus: Sequence[bytes]) -> Edit:
        content, spans, choice = self._base, self._spans, rng.randrange(16)
        if choice < 2 and spans.keys:
            begin, end = rng.choice(spans.keys)
            other = content[slice(*rng.choice(spans.keys))]
            return begin, end, rng.choice((rng.choice(JSON_KEYS), other))
        if choice < 5 and spans.items:
            begin, end = rng.choice(spans.items)
            item = content[begin:end]
            times = min(rng.choice((0, 0, 2, 2, 3, 17, 65, 65, 1025)), MAX_INPUT_BYTES // len(item) + 1)
            comma = b"" if item.endswith(b",") else b","
            return begin, end, (item + comma) * max(0, times - 1) + (item if times else b"")
        if choice < 9 and spans.texts:
            begin, end = rng.choice(spans.texts)
            return begin, end, self._inside(content[begin:end], rng, corpus)
        begin, end = rng.choice(spans.values)
        instead = self._value(content[begin:end], rng, corpus)
        if choice == 9:  # what stands in another place
            instead = content[slice(*rng.choice(spans.values))]
        elif choice == 10:
            other = rng.choice(corpus)
            instead = other if len(other) < 2000 else b"0"
        elif choice == 11 and rng.random() < 0.2:
            depth = rng.choice((1, 2, 12, 17, 1100))
            instead = b"[" * depth + content[begin:end] + b"]" * depth
        return begin, end, instead

    def _value(self, old: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
        choice = rng.randrange(8)
        if choice < 2 and old[:1] == b'"':
            return b'"' + self._bytes(old[1:-1], rng, corpus) + b'"'
        if choice == 2 and _NUMBER.fullmatch(old):
            return str(int(old) + rng.choice((-1, 1, 2, 64, -(2**31), 2**53))).encode()
        if choice == 3:
            return quoted(rng.choice(self._words))
        return rng.choice(JSON_HUGE if rng.random() < 0.002 else JSON_VALUES)

    def _inside(self, token: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
        inner = unquoted(token)
        if inner is None:
            return token
        mutator = Mutator("json", self._words)
        mutator._base, mutator._spans = inner, spans_of(inner)
        return quoted(mutator._edited(1, rng, corpus) if mutator._spans.values else b"")
