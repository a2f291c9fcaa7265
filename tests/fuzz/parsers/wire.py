"""Targets: what the cloud and the devices say to each other (protocol/)."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from protocol import down, manifest, signing, up
from protocol.chunks import (
    BlobRef,
    ChunkList,
    check_ranges,
    chunk_count,
    chunk_span,
    describe,
    pack_chunk,
    to_ranges,
    unpack_chunk,
)
from protocol.codec import decode, decode_json, encode, structure, to_plain
from protocol.errors import ChunkError, IdentityError, ManifestError, MessageError
from protocol.identity import Installed, VersionRange, check_digest, check_id, check_version, version_key
from protocol.manifest import CUSTOM_FIELD, from_custom, to_custom
from protocol.patches import MAX_PATCHED_BYTES, Patch
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Envelope, seal, unseal
from protocol.topics import Topics
from protocol.values import check_metadata_name
from tests.fuzz.child import run_one_of
from tests.fuzz.targets import Make, Parse, Target
from tests.protocol.samples import DIGEST_A, MESSAGES

DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "protocol.md"
EXAMPLES: Final = re.findall(r"<!-- example: (\w+) -->\n```json\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
KINDS: Final[tuple[type[Any], ...]] = (
    *(down.Desired, down.Notice, down.Ack, down.Metadata, down.Bundle),
    *(up.Hello, up.DeviceState, up.Report, up.Want, up.Ask, up.Presence),
    *(manifest.Manifest, BlobRef, Envelope),
)
TOPICS: Final = Topics()
SIGNATURES: Final = (signing.Signature(keyid=DIGEST_A, sig="0f"),)


def plain(parse: Parse) -> Make:
    """Return the making of a parser that needs none."""

    @contextmanager
    def make(_directory: Path) -> Iterator[Parse]:
        yield parse

    return make


def examples_of(kind: type[Any]) -> list[bytes]:
    """Return the messages of a kind from the document and the samples."""
    written = [text.encode() for name, text in EXAMPLES if name == kind.__name__]
    return written + [encode(message) for message in MESSAGES if type(message) is kind]


def round_trip(kind: type[Any], content: bytes) -> object:
    """Decode, and encode again: what is taken can be said, and says the same."""
    message = decode(content, kind)
    try:
        again = encode(message)
    except MessageError:  # what was left out is said now, and is too much for one message
        return "long"
    assert decode(again, kind) == message
    return True


def message_targets() -> list[Target]:
    """Return one target for each message."""
    return [
        Target(
            name=f"message.{kind.__name__}",
            make=plain(partial(round_trip, kind)),
            seeds=partial(examples_of, kind),
            shape="json",
            expected=(MessageError,),
            covers=("protocol.codec.decode", "protocol.codec.encode"),
        )
        for kind in KINDS
    ]


def sealed(type_: str, kind: type[Any]) -> Target:
    """Return the target of a signed message: every signature is good, so that all of it is reached."""
    return Target(
        name=f"envelope.{kind.__name__}",
        make=plain(lambda content: unseal(content, type_, kind, lambda _pae, _signatures: None)),
        seeds=lambda: [
            *examples_of(Envelope),
            *(seal(decode(text, kind), type_, lambda _pae: SIGNATURES) for text in examples_of(kind)),
        ],
        shape="json",
        expected=(MessageError,),
        covers=("protocol.signing.unseal", "protocol.signing.pae"),
    )


def chunk(content: bytes) -> object:
    """A message on a chunk topic."""
    index, data = unpack_chunk(content)
    assert pack_chunk(index, data) == content
    return len(data)


CHUNKS: Final = (b"", b"abc", b"x" * 65536)
BLOB, LISTS = describe([bytes(range(256)) * 1025])


def chunk_list(content: bytes) -> object:
    """A chunk list by its digest, and one whose digest fits; the first two bytes say which chunk is verified."""
    size_bytes = int.from_bytes(content[2:10], "big")
    fitting = ChunkList(size_bytes, content)
    spoken = (ChunkList.trust(content, BLOB.lists[0], BLOB.size_bytes),) if content == LISTS[0] else (fitting,)
    for item in spoken:
        item.verify(int.from_bytes(content[:2], "big"), content)
    return chunk_count(size_bytes)


def trusted_list(content: bytes) -> object:
    """A chunk list as it comes: nothing but the one that was signed passes."""
    assert ChunkList.trust(content, BLOB.lists[0], BLOB.size_bytes).digests == LISTS[0]
    return True


def blob_text(content: bytes) -> object:
    """Ranges of chunks in a want, and the spans that they come to."""
    fields = decode_json(content, "ranges")
    pairs = fields.get("ranges")
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(item) is int for item in pair) for pair in pairs
    ):
        return None
    check_ranges([(first, count) for first, count in pairs], max_chunks=1024)
    indexes = [index for first, count in pairs for index in range(first, first + count)]
    assert sum(count for _, count in to_ranges(indexes)) == len(indexes)
    size = fields.get("size")
    return chunk_span(indexes[0], size) if indexes and type(size) is int and size > 0 else None


BASE: Final = b'{"signed":{"targets":{}}}' * 200


def patch(content: bytes) -> object:
    """A metadata file by the version before it: it comes to a bounded file, or to none."""
    found = decode(content, Patch).apply(BASE)
    assert found is None or len(found) <= MAX_PATCHED_BYTES + len(content)
    return found is not None


def topic(content: bytes) -> object:
    """A topic, as whatever text it comes."""
    return type(TOPICS.parse(content.decode("utf-8", errors="surrogateescape"))).__name__


def root(content: bytes) -> object:
    """A topic root."""
    return Topics(content.decode("utf-8", errors="surrogateescape")).all_up()


def names(content: bytes) -> object:
    """Ids, digests, versions and names of files: whatever passes is ASCII, has no line's end and no path in it."""
    text = content.decode("utf-8", errors="surrogateescape")
    passed = 0
    for check in (check_id, check_digest, check_version, check_metadata_name):
        try:
            check(text)
        except (IdentityError, MessageError):
            continue
        passed += 1
        assert text.isascii()
        assert text.isprintable()
        assert "/" not in text
        assert len(text) <= 100
        if check is check_version:
            version_key(text)
    return passed


def version_range(content: bytes) -> object:
    """A target range; what parses can be matched against any component."""
    text = content.decode("utf-8", errors="surrogateescape")
    parsed = VersionRange.parse(text)
    here = {"app": Installed(version="1.2.3-rc.1+b", build=7), "os": Installed(version="2.0.0", build=0)}
    return sum(parsed.matches(component, here) for component in ("app", "os", "none"))


def custom(content: bytes) -> object:
    """The custom part of a signed target: any JSON at all, for a key may be stolen."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    found = from_custom(value, "thermostat/app/1.1.0")
    assert structure(to_plain(found), manifest.Manifest) == found
    json.dumps(to_plain(found), ensure_ascii=False).encode()
    return True


def manifests() -> list[bytes]:
    """Return custom objects of targets."""
    whole = [decode(text, manifest.Manifest) for text in examples_of(manifest.Manifest)]
    return [json.dumps(to_custom(item)).encode() for item in whole] + [
        json.dumps({CUSTOM_FIELD: {**to_plain(item), "product": "thermostat", "component": "app", "version": "1.1.0"}})
        .encode()
        for item in whole
    ]  # fmt: skip


def objects(content: bytes) -> object:
    """Any JSON object: what comes out says itself again in UTF-8."""
    return len(json.dumps(decode_json(content, "any"), ensure_ascii=False).encode()) > 2


TARGETS: Final[tuple[Target, ...]] = (
    *message_targets(),
    sealed(NOTICE_TYPE, down.Notice),
    sealed(DESIRED_TYPE, down.Desired),
    Target(
        name="json",
        make=plain(objects),
        seeds=lambda: [text for kind in KINDS for text in examples_of(kind)] + [b'{"a":' + b'[{"b":1}]' * 1 + b"}"],
        shape="json",
        expected=(MessageError,),
        covers=("protocol.codec.decode_json", "protocol.codec.check_encodable"),
    ),
    Target(
        name="manifest",
        make=plain(custom),
        seeds=manifests,
        shape="json",
        expected=(ManifestError,),
        covers=("protocol.manifest.from_custom", "protocol.codec.structure"),
    ),
    Target(
        name="chunk",
        make=plain(chunk),
        seeds=lambda: [pack_chunk(index, data or b"z") for index in (0, 1, 258, 2**32 - 1) for data in CHUNKS],
        shape="bytes",
        expected=(ChunkError,),
        covers=("protocol.chunks.unpack_chunk", "protocol.chunks.pack_chunk"),
        words=(b"FLC1", b"FLC1\x00\x00\x00\x00\x00\x00\x00\x01"),
    ),
    Target(
        name="chunk_list",
        make=plain(chunk_list),
        seeds=lambda: [*LISTS, b"\x00\x00" + (65536).to_bytes(8, "big") + bytes(32), b"\x00\x01" + bytes(40)],
        shape="bytes",
        expected=(ChunkError,),
        covers=("protocol.chunks.ChunkList.verify",),
    ),
    Target(
        name="chunk_list.trusted",
        make=plain(trusted_list),
        seeds=lambda: [*LISTS],
        shape="bytes",
        expected=(ChunkError,),
        covers=("protocol.chunks.ChunkList.trust",),
    ),
    Target(
        name="ranges",
        make=plain(blob_text),
        seeds=lambda: [b'{"ranges":[[0,16],[20,1]],"size":200000}', b'{"ranges":[[1023,1]],"size":68719476736}'],
        shape="json",
        expected=(ChunkError, MessageError),
        covers=("protocol.chunks.check_ranges",),
    ),
    Target(
        name="patch",
        make=plain(patch),
        seeds=lambda: [
            encode(Patch(base=hashlib.sha256(BASE).hexdigest(), texts=("{", "x", "}"), copies=((0, 50), (4000, 900)))),
            encode(Patch(base=DIGEST_A, texts=("{}",), copies=())),
        ],
        shape="json",
        expected=(MessageError,),
        covers=("protocol.patches.Patch.apply",),
    ),
    Target(
        name="topic",
        make=plain(topic),
        seeds=lambda: [
            *(TOPICS.up("pi-1", kind).encode() for kind in ("hello", "want", "presence")),
            *(TOPICS.down("pi-1", kind).encode() for kind in ("desired", "ack", "meta")),
            TOPICS.chunks("a" * 64).encode(),
            TOPICS.chunks("a" * 64, "pi-1").encode(),
            TOPICS.notice("thermostat", "pilot", "app").encode(),
            TOPICS.bundle("thermostat").encode(),
        ],
        shape="bytes",
        expected=(IdentityError,),
        covers=("protocol.topics.Topics.parse",),
        words=(b"/", b"+", b"#", b"$SYS", b"d/", b"/up/", b"/down/", b"b/", b"fleetlift/v1/"),
    ),
    Target(
        name="topic_root",
        make=plain(root),
        seeds=lambda: [b"fleetlift/v1", b"a", b"a_b/c-D"],
        shape="bytes",
        expected=(IdentityError,),
        covers=("protocol.topics.Topics",),
        words=(b"/", b"+", b"#"),
    ),
    Target(
        name="names",
        make=plain(names),
        seeds=lambda: [
            *(b"pi-1", b"a" * 64, b"0" * 64, b"1.0.0", b"2.0.0-rc.1+b.7", b"timestamp.json", b"3.root.json"),
            *(b"12.a-b.json", b"999999999.0.1"),
        ],
        shape="bytes",
        covers=(
            "protocol.identity.check_id",
            "protocol.identity.check_digest",
            "protocol.identity.check_version",
            "protocol.identity.version_key",
            "protocol.values.check_metadata_name",
        ),
        words=(b".", b"-", b"+", b".json", b"root", "\u0663".encode(), b"\n", b"/", b"..", b"0", b"1"),
    ),
    Target(
        name="version_range",
        make=plain(version_range),
        seeds=lambda: [b"*", b">=1.2.0 <2.0.0", b"1.x || os:build>=7 2.1.x", b"!=1.2.x", b"app:==1.2.3", b"build!=3"],
        shape="bytes",
        expected=(IdentityError,),
        covers=("protocol.identity.VersionRange.parse",),
        words=(b"||", b" ", b">=", b"<=", b"!=", b"==", b"build", b"os:", b".x", b".*", b"*", "\u0663".encode()),
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
