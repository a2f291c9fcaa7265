"""How an attempt ends whose data could not be saved: nothing was switched, so it is a failure and no fall-back."""

from dataclasses import replace

import pytest

from device_agent.events import Failed, Reverted
from protocol.phases import Outcome, Phase, Reason
from tests.device_agent.test_machine import at, tell


@pytest.mark.parametrize("booted", [None, "b" * 64], ids=["not-booted", "booted"])
def test_data_that_could_not_be_saved_goes_back_and_was_never_switched(booted: str | None) -> None:
    rolling = tell(replace(at(Phase.RESTARTING), booted_digest=booted), Failed(Reason.DATA_FAILED, "disk full"))
    assert rolling.phase is Phase.ROLLING_BACK
    end = tell(rolling, Reverted()).concluded
    assert end is not None
    assert (end.outcome, end.reason) == (Outcome.ROLLED_BACK if booted else Outcome.FAILED, Reason.DATA_FAILED)
    assert end.condemns_digest
