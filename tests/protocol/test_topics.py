"""Topics are built and parsed side by side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import IdentityError
from protocol.topics import (
    DOWN_KINDS,
    UP_KINDS,
    BundleTopic,
    ChunkTopic,
    DownTopic,
    NoticeTopic,
    Topics,
    UpTopic,
)
from tests.protocol.samples import DIGEST_A

TOPICS = Topics()
LONGEST = Topics("a" * 32 + "/" + "b" * 31)


@pytest.mark.parametrize("topics", [TOPICS, LONGEST, Topics("one")])
def test_what_is_built_is_parsed(topics: Topics) -> None:
    built = {
        **{topics.up("pi-1", kind): UpTopic("pi-1", kind) for kind in UP_KINDS},
        **{topics.down("pi-1", kind): DownTopic("pi-1", kind) for kind in DOWN_KINDS},
        topics.chunks(DIGEST_A): ChunkTopic(DIGEST_A),
        topics.chunks(DIGEST_A, "pi-1"): ChunkTopic(DIGEST_A, "pi-1"),
        topics.notice("thermostat", "pilot", "app"): NoticeTopic("thermostat", "pilot", "app"),
        topics.bundle("thermostat"): BundleTopic("thermostat"),
    }
    for text, meaning in built.items():
        assert topics.parse(text) == meaning
        assert text.count("/") <= 7
        assert not text.startswith(("$", "/"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fleetlift/v1",
        "fleetlift/v1/",
        "other/v1/d/pi-1/up/hello",
        "fleetlift/v1/d/pi-1/up/unknown",
        "fleetlift/v1/d/pi-1/up/hello/more",
        "fleetlift/v1/d/PI/up/hello",
        "fleetlift/v1/d//up/hello",
        "fleetlift/v1/d/+/up/hello",
        "fleetlift/v1/b/xyz",
        f"fleetlift/v1/b/{DIGEST_A}/x",
        f"fleetlift/v1/b/../{DIGEST_A}",
        "fleetlift/v1/p/thermostat/n/#/app",
    ],
)
def test_what_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        TOPICS.parse(text)


@pytest.mark.parametrize("root", ["", "/a", "a/", "a/b/c", "a/+", "#", "$SYS", "a b", "x" * 65])
def test_what_is_no_root(root: str) -> None:
    with pytest.raises(IdentityError):
        Topics(root)


@given(st.text(max_size=120))
def test_no_text_escapes_as_another_error(text: str) -> None:
    for candidate in (text, f"fleetlift/v1/{text}"):
        try:
            TOPICS.parse(candidate)
        except IdentityError:
            continue
