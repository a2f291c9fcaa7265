"""A fleet that has every trouble there is, on the store of a home: some devices have several, and some have none."""

from __future__ import annotations

import time

from sqlalchemy import update
from sqlmodel import col

from cloud.device_models import DevicePendingRow
from cloud.models import AttemptRow, CertificateRow, DeviceRow
from cloud.store.store import Store
from cloud.values import ChannelKey, ReleaseDraft, ReleaseView
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.up import Pending
from tests.cloud.homes import MODEL, PRODUCT, Api
from tests.cloud.store.fleets import Device, digest_of, image_of

DAY_MS = 86_400_000


def troubled(api: Api) -> dict[str, Device]:
    """Make it, and return its devices by id."""
    store = api.home.store
    names = (
        *("back-1", "back-2", "failed-1", "failed-2", "both-1", "rolled-1", "rolled-2", "unsaid-1", "blocked-1"),
        *("blocked-2", "held-1", "later-1", "quiet-1", "turn-1", "turn-2", "ends-1", "ended-1", "good-1", "declined-1"),
        *("loud-1", "wary-1", "calm-1", "gone-failed", "gone-blocked", "gone-ended", "gone-back"),
    )
    found = {it: Device(store, it, {"app": "1.0.0"}, model=MODEL) for it in names}
    for device in found.values():
        device.hello()
    api.home.publish("2.0.0", image_of("app", "2.0.0"))
    draft = ReleaseDraft(channel=ChannelKey(PRODUCT, "everyone", "app"), version="2.0.0")
    made = store.releases.create(draft, by="test")
    _attempts(found, made)
    _waiting(store, found, made)
    _rows(store)
    found["wary-1"].tell(refused={"bad_signature": 2})
    for who in ("loud-1", "blocked-1", "no-device-of-ours"):
        api.backend.refusals.note(who, "report", "bad_message", "a field is missing")
    for name in names:
        if name.startswith("gone"):
            store.certificates.revoke_device(name, "gone", by="test")
    return found


def _attempts(found: dict[str, Device], made: ReleaseView) -> None:
    for name in ("rolled-1", "rolled-2", "both-1", "unsaid-1", "gone-failed"):
        found[name].fail("2.0.0", made.release_id, Reason.HEALTH_FAILED)
    for name in ("failed-1", "failed-2", "both-1"):
        device = found[name]
        device.report(
            *device.steps("2.0.0", made.release_id, Phase.DOWNLOADING, outcome=Outcome.FAILED, reason=Reason.TOO_LARGE)
        )
    for name in ("back-1", "back-2", "back-2", "gone-back"):
        device, other = found[name], digest_of("1.0.0")
        device.report(*device.steps("2.0.0", made.release_id, Phase.PROVING, outcome=Outcome.SUCCEEDED, booted=other))


def _waiting(store: Store, found: dict[str, Device], made: ReleaseView) -> None:
    for name, why in (
        *(("blocked-1", Wait.REQUIREMENT), ("blocked-2", Wait.BREAKS), ("gone-blocked", Wait.DATA_SCHEMA)),
        *(("held-1", Wait.HELD), ("later-1", Wait.DISABLED), ("declined-1", Wait.DECLINED)),
    ):
        item = Pending(component="app", version="2.0.0", digest=digest_of("2.0.0"), source_id=made.release_id, why=why)
        found[name].tell(pending=(item,))
    store.redundancy.create_set("pair", by="test")
    store.redundancy.add_to_set("pair", ["turn-1", "turn-2"], by="test")
    for name in ("turn-1", "turn-2"):
        found[name].presence(online=True)
        found[name].report(*found[name].steps("2.0.0", made.release_id, Phase.DOWNLOADING))
        found[name].tell(waits_for_turn="a-1")
    found["quiet-1"].presence(online=False)
    found["calm-1"].presence(online=False)


def _rows(store: Store) -> None:
    """Write what takes days to come about: as if it had been so long ago."""
    now_ms = int(time.time() * 1000)
    ends = {"ends-1": 3, "ended-1": -3, "good-1": 60, "gone-ended": -9}
    with store._database.changing() as change:
        session = change.session
        of_attempt = update(AttemptRow).where(col(AttemptRow.reason) == Reason.HEALTH_FAILED.value)
        session.execute(of_attempt.where(col(AttemptRow.device_id) == "both-1").values(component="os"))
        session.execute(of_attempt.where(col(AttemptRow.device_id) == "unsaid-1").values(reason=None))
        twice = update(AttemptRow).where(col(AttemptRow.device_id) == "back-2", col(AttemptRow.attempt_id) == "a-1")
        session.execute(twice.values(component="os"))
        long = update(DevicePendingRow).where(col(DevicePendingRow.device_id) == "held-1")
        session.execute(long.values(decided_at_ms=now_ms - 2 * DAY_MS))
        away = update(DeviceRow).where(col(DeviceRow.id) == "quiet-1")
        session.execute(away.values(last_seen_at_ms=now_ms - 30 * DAY_MS))
        for serial, (device_id, days) in enumerate(ends.items(), start=1):
            session.add(
                CertificateRow(
                    serial=format(serial, "x"),
                    device_id=device_id,
                    authority="a",
                    key_sha256=str(serial),
                    pem="",
                    not_before_ms=0,
                    not_after_ms=now_ms + days * DAY_MS,
                    issued_at_ms=0,
                )
            )
