"""What a device fetches: the very image that was signed, in an encoding that it knows; no decoder sees another."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.trust import SignedFirmware
from device_agent.vetting import ENCODINGS, RefusedFirmwareError, vetted
from protocol.chunks import BlobRef, describe
from protocol.facts import DeviceFacts
from protocol.manifest import Blob, Manifest
from protocol.phases import Reason
from tests.support.repository import firmware_ref, manifest_of

IMAGE = describe([b"the image" * 10_000])[0]
BOMB = describe([b"\x00" * 700])[0]
FACTS = DeviceFacts(device_id="pi-1", hardware_model="pi-4", agent_version="0.1.0")
UNKNOWN = (
    "xz",
    "zstd",
    "gzip",
    "deflate",
    "bsdiff",
    "",
    "IDENTITY",
    "identity ",
    "identity\n",
    "identity,xz",
    "\u0131dentity",
)


def signed(*blobs: Blob) -> SignedFirmware:
    manifest: Manifest = dataclasses.replace(manifest_of(IMAGE), blobs=blobs)
    return SignedFirmware(manifest=manifest, length=IMAGE.size_bytes, sha256=IMAGE.digest)


def fetched(*blobs: Blob) -> BlobRef:
    return vetted(firmware_ref(manifest_of(IMAGE)), signed(*blobs), FACTS, {})


def test_identity_is_all_that_this_agent_decodes() -> None:
    assert ENCODINGS == ("identity",)


@pytest.mark.parametrize("encoding", UNKNOWN)
def test_an_encoding_that_is_not_known_is_refused_before_a_byte_is_fetched(encoding: str) -> None:
    with pytest.raises(RefusedFirmwareError) as caught:
        fetched(Blob(encoding=encoding, ref=BOMB), Blob(encoding=encoding, ref=IMAGE, source_digest=BOMB.digest))
    assert caught.value.reason is Reason.INCOMPATIBLE


def test_an_identity_that_is_not_the_image_is_refused() -> None:
    with pytest.raises(RefusedFirmwareError) as caught:
        fetched(Blob(encoding="identity", ref=BOMB))
    assert caught.value.reason is Reason.UNTRUSTED


@given(
    st.lists(st.tuples(st.sampled_from((*UNKNOWN, "identity")), st.sampled_from((IMAGE, BOMB))), min_size=1, max_size=8)
)
def test_whatever_is_offered_the_image_is_fetched_or_nothing(offered: list[tuple[str, BlobRef]]) -> None:
    blobs = [Blob(encoding=encoding, ref=ref) for encoding, ref in offered]
    known = next((ref for encoding, ref in offered if encoding in ENCODINGS), None)
    if known == IMAGE:
        assert fetched(*blobs) == IMAGE
    else:
        with pytest.raises(RefusedFirmwareError):
            fetched(*blobs)
