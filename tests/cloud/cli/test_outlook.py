"""What is said before a decision of the devices that it does not reach."""

from cloud.cli.client import Json
from cloud.cli.outlook import MAX_NAMES, MAX_REASONS, held


def hold(device_id: str, reason: str = "percentage", detail: str = "") -> Json:
    return {"device_id": device_id, "reason": reason, "detail": detail}


def test_a_reason_that_differs_between_devices_is_an_example() -> None:
    holds = [hold("gh-1", detail="bucket 64 is not below 50"), hold("js-2", detail="bucket 77 is not below 50")]
    assert held(holds) == ["  not 2: percentage: gh-1, js-2 (for example gh-1: bucket 64 is not below 50)"]


def test_a_reason_that_holds_for_all_of_them_is_said_of_all() -> None:
    holds = [hold(name, "up_to_date", "runs 1.1.0") for name in ("pi-1", "pi-2")]
    assert held(holds) == ["  not 2: up to date: pi-1, pi-2 (runs 1.1.0)"]
    assert held([hold("pi-1", detail="bucket 64 is not below 50")]) == [
        "  not 1: percentage: pi-1 (bucket 64 is not below 50)"
    ]
    assert held([hold("pi-1", "ota_off")]) == ["  not 1: ota off: pi-1"]


def test_many_devices_and_reasons_are_cut_short_the_most_frequent_first() -> None:
    few = [hold(f"few-{number}", f"reason_{number}") for number in range(MAX_REASONS + 5)]
    many = [hold(f"pi-{number}", "offline") for number in range(MAX_NAMES + 1)]
    lines = held([*few, *many])
    assert len(lines) == MAX_REASONS
    assert lines[0] == "  not 6: offline: pi-0, pi-1, pi-2, pi-3, pi-4, …"
