"""Every parser of bytes from outside, for a moment: `make fuzz` is the same for a million inputs each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.child import quiet, scratch
from tests.fuzz.mutation import Mutator
from tests.fuzz.parsers.every import TARGETS
from tests.fuzz.targets import Target

EXAMPLES, HEAVY_EXAMPLES = 120, 30
REPRODUCERS = Path(__file__).parent / "reproducers"
quiet()


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Return noise, and what the target knows with something wrong."""
    seeds = list(target.seeds())

    def mutated(seed: int) -> bytes:
        return Mutator(target.shape, target.words).mutated(seeds, random.Random(seed))

    return st.one_of(st.integers(0, 2**32).map(mutated), st.sampled_from(seeds), st.binary(max_size=200))


@pytest.mark.parametrize("target", TARGETS.values(), ids=str)
def test_nothing_but_the_documented_errors_comes_out(target: Target) -> None:
    with scratch() as directory, target.make(directory) as parse:

        @settings(
            max_examples=HEAVY_EXAMPLES if target.heavy else EXAMPLES,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs(target))
        def attempt(content: bytes) -> None:
            try:
                parse(content)
            except target.expected:
                return

        for content in (*target.seeds(), *(path.read_bytes() for path in REPRODUCERS.glob(f"{target.name}-*.input"))):
            try:
                parse(content)
            except target.expected:
                continue
        attempt()


def test_every_reproducer_is_of_a_parser() -> None:
    found = [path.name for path in REPRODUCERS.rglob("*.input")]
    assert found
    assert [name for name in found if name.partition("-")[0] not in TARGETS] == []
