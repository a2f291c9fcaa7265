"""A product's metadata in one message that stays small, however many firmwares there are.

A role keeps all firmware that was ever signed. So a device that has the version before is told what changed, a few
hundred bytes. It makes the same bytes of that, which are verified as ever; who lacks that version asks for the file.
"""

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from protocol.codec import MAX_MESSAGE_BYTES, encode
from protocol.down import Bundle
from protocol.errors import MessageError
from protocol.patches import Patch

BUNDLE_BYTES: Final = 4000
"""What a bundle is kept below on the wire where patches can do that."""
_PUBLISH_BYTES: Final = 128
"""Room for what MQTT adds: the fixed header, and the topic."""
T = TypeVar("T")
_PIECES = re.compile(rb'(?="[a-z0-9-]{1,64}(?:/|\.json"))')
"""Where a target's path, or a delegation's, or the name of a role in a snapshot begins."""
_WORTHWHILE = 16
"""A copy costs about as much to say."""


Told = tuple[str, Patch | None]
"""A file by its name, and how it is made of what devices have; None: they are not known to have anything."""


def fitting(whole: Bundle, patches: Iterable[Told], lasting: str, shared: Told) -> Bundle:
    """Return a bundle of at most BUNDLE_BYTES where these patches (by the files that they make) can do that.

    Where they cannot, `lasting` is left out, the file that changes so seldom that devices have it; and then `shared` is
    patched, which changes so often that devices may well lack its base. What is not patched stays whole while it fits
    into a message, the largest being left out first.
    """
    bundle = whole
    for told in patches:
        bundle = _patched(bundle, *told)
    if bundle.patches and _size_bytes(bundle) > BUNDLE_BYTES - _PUBLISH_BYTES:
        bundle = dataclasses.replace(
            bundle, files=_without(bundle.files, lasting), patches=_without(bundle.patches, lasting)
        )
    bundle = _patched(bundle, *shared)
    while True:
        try:
            encode(bundle)
        except MessageError:
            largest = max(bundle.files, key=lambda name: len(bundle.files[name]))
            bundle = dataclasses.replace(bundle, files=_without(bundle.files, largest))
        else:
            return bundle


def _patched(bundle: Bundle, name: str, patch: Patch | None) -> Bundle:
    if patch is None or _size_bytes(bundle) <= BUNDLE_BYTES - _PUBLISH_BYTES:
        return bundle
    files = _without(bundle.files, name)
    return dataclasses.replace(bundle, files=files, patches={**bundle.patches, name: patch})


def _without(files: Mapping[str, T], name: str) -> dict[str, T]:
    return {other: content for other, content in files.items() if other != name}


def _size_bytes(bundle: Bundle) -> int:
    try:
        return len(encode(bundle))
    except MessageError:
        return MAX_MESSAGE_BYTES + 1


def make_patch(old: bytes, new: bytes) -> Patch | None:
    """Return how to make `new` from `old`; None where that is no gain. For files of consecutive versions of a role."""
    if not (old.isascii() and new.isascii()):
        return None
    texts, copies = [b""], list[tuple[int, int]]()
    for offset, length, text in _operations(old, new):
        if text:
            texts[-1] += text
        elif copies and not texts[-1] and sum(copies[-1]) == offset:
            copies[-1] = (copies[-1][0], copies[-1][1] + length)
        else:
            copies.append((offset, length))
            texts.append(b"")
    try:
        patch = Patch(
            base=hashlib.sha256(old).hexdigest(),
            texts=tuple(text.decode() for text in texts),
            copies=tuple(copies),
        )
    except MessageError:
        return None
    return patch if patch.apply(old) == new and sum(map(len, texts)) < len(new) / 2 else None


def _operations(old: bytes, new: bytes) -> list[tuple[int, int, bytes]]:
    """Return (offset, length, b"") for what is copied, and (0, 0, text) for what is not."""
    old_pieces, new_pieces = _PIECES.split(old), _PIECES.split(new)
    starts = [0]
    for piece in old_pieces:
        starts.append(starts[-1] + len(piece))
    found: list[tuple[int, int, bytes]] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old_pieces, new_pieces, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append((starts[i1], starts[i2] - starts[i1], b""))
        else:
            found += _within(b"".join(old_pieces[i1:i2]), b"".join(new_pieces[j1:j2]), starts[i1])
    return found


def _within(old: bytes, new: bytes, start: int) -> list[tuple[int, int, bytes]]:
    """Say one changed stretch by the beginning and the end that it kept."""
    head = _in_common(old, new)
    tail = _in_common(old[head:][::-1], new[head:][::-1])
    parts = [
        (start, head, b""),
        (0, 0, new[head : len(new) - tail]),
        (start + len(old) - tail, tail, b""),
    ]
    return [part for part in parts if part[1] or part[2]]


def _in_common(one: bytes, other: bytes) -> int:
    """Return how long a beginning both have, 0 where it is not worth a copy."""
    most = min(len(one), len(other))
    size = next((index for index in range(most) if one[index] != other[index]), most)
    return size if size >= _WORTHWHILE else 0
