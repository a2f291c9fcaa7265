"""Whole kinds are covered as `protocol.selection` covers each of their devices."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.simulation.coverage import covered_below
from cloud.simulation.fleets import Kind
from protocol.down import NoticeRelease
from protocol.facts import DeviceFacts
from protocol.identity import EVERYONE, place
from protocol.schedule import Ramp, Stratum, Terms
from protocol.selection import Assignment, Verdict, select
from protocol.values import ComponentState, FirmwareRef

NEW = FirmwareRef(
    component="app", version="2.0.0", build=2, seq=2, digest="2" * 64, size_bytes=1, hardware_models=("*",)
)
ramps = st.builds(
    lambda first, start, length: Ramp(from_percentage=first, starts_at_ms=start, ends_at_ms=start + length),
    st.integers(0, 50),
    st.integers(0, 1000),
    st.integers(1, 1000),
)
strata = st.builds(
    Stratum, hardware_model=st.none() | st.sampled_from(("pi3", "pi4")), from_version=st.none() | st.just("1.0.0")
)
terms = st.builds(
    Terms,
    canaries=st.sampled_from(((), ("pilot",), ("pilot", "lab"))),
    ramp=st.none() | ramps,
    paused=st.booleans(),
    stopped=st.lists(strata, max_size=2).map(tuple),
    not_before_ms=st.integers(0, 1500),
)
kinds = st.builds(
    Kind,
    st.sampled_from(("pi3", "pi4")),
    st.sampled_from(("1.0.0", "1.1.0")),
    st.sampled_from(((EVERYONE,), ("pilot", EVERYONE))),
)


@settings(max_examples=400, deadline=None)
@given(
    terms=terms, kind=kinds, percentage=st.integers(50, 100), now_ms=st.integers(0, 2500), number=st.integers(0, 999)
)
def test_a_place_below_the_number_is_a_device_that_takes_it(
    terms: Terms, kind: Kind, percentage: int, now_ms: int, number: int
) -> None:
    release = NoticeRelease(release_id="rel-1", label=1, order=1, firmware=NEW, percentage=percentage, terms=terms)
    device_id = f"device-{number:07}"
    running = ComponentState(component="app", version=kind.version, build=1, digest="1" * 64)
    facts = DeviceFacts(
        device_id=device_id, hardware_model=kind.hardware_model, agent_version="0.1.0", components={"app": running}
    )

    decision = select(facts, Assignment(groups=kind.groups), {(EVERYONE, "app"): (release,)}, "app", now_ms=now_ms)

    takes = decision.verdict is Verdict.TAKE
    assert (place(device_id, "rel-1") < covered_below(release, kind, now_ms)) is takes
