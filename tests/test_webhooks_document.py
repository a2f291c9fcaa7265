"""What docs/webhooks.md tells receivers is so: its example verifies what is sent, and its table is complete."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloud.happenings import KINDS, EventView
from cloud.webhooks.letters import body_of, headers_of, new_secret
from cloud.webhooks.pacing import Pace

TEXT = (Path(__file__).parents[1] / "docs" / "webhooks.md").read_text(encoding="utf-8")
EVENT = EventView(
    number=17,
    at_ms=1_700_000_000_000,
    kind="device.rolled_back",
    product="thermostat",
    subject="device/pi-7",
    source=None,
    data={"detail": "caf\u00e9 \N{SNOWMAN}. ok"},
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def is_genuine() -> Callable[[str, Mapping[str, str], bytes], bool]:
    (source,) = blocks("python")
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - it is the document that is tested
    found: Callable[[str, Mapping[str, str], bytes], bool] = names["is_genuine"]
    return found


def test_the_example_believes_what_is_sent_and_nothing_else() -> None:
    check, secret, now_s = is_genuine(), new_secret(), time.time()
    body = body_of(EVENT, "https://fleet.example:8321")
    headers = headers_of(EVENT, body, secret, now_s)
    assert check(secret, headers, body)
    assert check(secret, {**headers, "webhook-signature": f"v1a,AAAA {headers['webhook-signature']}"}, body)
    assert not check(new_secret(), headers, body)
    assert not check(secret, headers, body + b" ")
    assert not check(secret, {**headers, "webhook-id": "event_1_1"}, body)
    assert not check(secret, {**headers, "webhook-timestamp": str(int(now_s) + 1)}, body)
    assert not check(secret, headers_of(EVENT, body, secret, now_s - 301), body)
    assert not check(secret, {**headers, "webhook-signature": "v1,"}, body)


def test_the_body_that_is_shown_is_one_that_is_sent() -> None:
    (shown,) = map(json.loads, blocks("json"))
    event = replace(EVENT, data=shown["data"])
    assert json.loads(body_of(event, "https://fleet.example:8321")) == shown
    assert f"webhook-id: {headers_of(event, b'', new_secret(), 0)['webhook-id']}" in TEXT


def test_every_kind_is_explained_and_none_that_there_is_not() -> None:
    named = set(re.findall(r"`((?:release|rollout|device|turn|webhook)\.[a-z_]+)`", TEXT))
    assert named == set(KINDS)


def test_the_waits_are_those_that_are_told() -> None:
    pace = Pace()
    assert [pace.wait_s(tries, 0) for tries in (1, 2, 3)] == [5, 20, 80]
    assert (pace.longest_s, pace.give_up_s) == (6 * 3600, 3 * 86_400)
