"""The pace of a plan whose group grows or shrinks while coverage does."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.guard.guarding import begin, coverage
from cloud.guard.policy import Phase, Policy
from protocol.schedule import PER_CENT
from tests.cloud.guard.looks import look, seen

HOUR_MS = 3_600_000
BEGAN_MS = 1_700_000_000_000
PACED = Policy(phases=(Phase(percentage=100, soak_s=600),), pace_per_hour=5)


def places(policy: Policy, standing: object, at_ms: int) -> int:
    ramp = coverage(policy, standing).terms.ramp  # type: ignore[arg-type]
    assert ramp is not None
    return ramp.covered(100, at_ms)


def test_a_group_that_grows_is_covered_as_slowly_as_the_pace_says_from_where_it_is() -> None:
    standing = begin(PACED, BEGAN_MS, 20)
    verdict = look(seen(devices=100), PACED, at_ms=BEGAN_MS + HOUR_MS, standing=standing)
    assert places(PACED, verdict.standing, BEGAN_MS + HOUR_MS) == 25 * PER_CENT
    assert places(PACED, verdict.standing, BEGAN_MS + 2 * HOUR_MS) == 30 * PER_CENT
    assert "grows and soaks" in verdict.why
    again = look(seen(devices=105), PACED, at_ms=BEGAN_MS + HOUR_MS + 1, standing=verdict.standing)
    assert again.standing == verdict.standing  # a twentieth more is no reason to tell everybody


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(0, 40 * HOUR_MS))
def test_coverage_never_shrinks_when_the_slope_changes(before: int, after: int, at_ms: int) -> None:
    policy = replace(PACED, pace_per_hour=50)
    standing, at_ms = begin(policy, BEGAN_MS, before), BEGAN_MS + at_ms
    turned = look(seen(devices=after), policy, at_ms=at_ms, standing=standing).standing
    assert places(policy, turned, at_ms) >= places(policy, standing, at_ms)


@pytest.mark.parametrize("policy", [PACED, replace(PACED, pace_per_hour=None)])
def test_what_has_grown_or_has_no_pace_is_left_as_it_is(policy: Policy) -> None:
    standing = begin(policy, BEGAN_MS, 20)
    assert look(seen(devices=900), policy, at_ms=BEGAN_MS + 4 * HOUR_MS, standing=standing).standing == standing
