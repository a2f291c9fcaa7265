"""Labels, Live, patches, rollback, promotion, notices and forecasts, on a real database."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from cloud.store.errors import ConflictError, InvalidError, NotFoundError
from cloud.store.releases import new_release_id
from cloud.store.store import Store
from cloud.values import ChannelKey, OutboxKind, ReleaseDraft, ReleasePatch, ReleaseView
from protocol.codec import encode
from protocol.identity import EVERYONE
from protocol.phases import Outcome, Phase
from protocol.selection import Verdict
from protocol.values import MAX_RELEASES, Urgency
from tests.cloud.store.fleets import ANN, PRODUCT, Clock, channel, digest_of, join, manifest, publish, release

OFF = ReleasePatch(enabled=False)
ON = ReleasePatch(enabled=True)


def live(store: Store, group: str = EVERYONE) -> list[str]:
    return [view.name for view in store.releases.releases(group=group) if view.live]


def taken(store: Store, made: ReleaseView, *device_ids: str) -> None:
    """Devices take a release and prove it."""
    for device in join(store, *device_ids):
        device.take(made.firmware.version, made.release_id)


def noticed(store: Store, group: str = EVERYONE) -> list[int]:
    return [each.label for each in store.releases.channel_notice(channel(group)).releases]


# Labels and Live


def test_labels_count_up_per_channel_and_a_new_channel_starts_at_v1(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    publish(store, "1.0.0", component="os")

    assert [release(store, version).label for version in ("1.0.0", "1.1.0", "1.2.0")] == [1, 2, 3]
    assert release(store, "1.1.0", "test").label == 1
    os_channel = ChannelKey(PRODUCT, EVERYONE, "os")
    assert store.releases.create(ReleaseDraft(channel=os_channel, version="1.0.0"), by=ANN).label == 1
    assert store.releases.channels() == (channel(), os_channel, channel("test"))
    assert store.releases.find(channel(), 2).firmware.version == "1.1.0"


def test_a_refused_release_takes_no_label(store: Store) -> None:
    release(store, "1.0.0")
    for version, error in (("9.0.0", NotFoundError), ("nonsense", InvalidError)):
        with pytest.raises(error):
            release(store, version)
    with pytest.raises(NotFoundError, match="no group 'tset'"):
        release(store, "1.1.0", "tset")
    with pytest.raises(NotFoundError, match="no product 'lamp'"):
        store.releases.create(ReleaseDraft(channel=ChannelKey("lamp", EVERYONE, "app"), version="1.0.0"), by=ANN)

    assert release(store, "1.1.0").label == 2


def test_live_is_the_highest_enabled_label(store: Store) -> None:
    made = [release(store, version) for version in ("1.0.0", "1.1.0", "1.2.0")]
    assert live(store) == ["v3"]

    assert store.releases.patch(made[2].release_id, OFF, by=ANN).live is False
    assert live(store) == ["v2"]
    store.releases.patch(made[1].release_id, OFF, by=ANN)
    assert live(store) == ["v1"]
    store.releases.patch(made[2].release_id, ON, by=ANN)
    assert live(store) == ["v3"]
    assert noticed(store) == [3]


def test_two_operators_at_once_get_two_labels(store: Store) -> None:
    """Twenty threads, started together, on the same channel."""
    together = threading.Barrier(20)
    made: list[ReleaseView] = []

    def decide() -> None:
        together.wait()
        made.append(release(store, "1.1.0"))

    threads = [threading.Thread(target=decide) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(view.label for view in made) == list(range(1, 21))
    assert len({view.order for view in made}) == 20


# What is decided


@pytest.mark.parametrize("percentage", [0, 101, -1, "ten", 50.0, True, None])
def test_a_percentage_is_a_whole_number_from_1_to_100(store: Store, percentage: object) -> None:
    with pytest.raises(InvalidError, match="a percentage is a whole number from 1 to 100"):
        release(store, "1.1.0", percentage=percentage)
    assert store.releases.releases() == ()


def test_a_percentage_only_rises(store: Store) -> None:
    made = release(store, "1.1.0", percentage=50)
    for percentage in (0, 101):
        with pytest.raises(InvalidError):
            ReleasePatch(percentage=percentage)
    with pytest.raises(ConflictError, match=r"v1 of .* is at 50 %, and a percentage only rises .* disable it instead"):
        store.releases.patch(made.release_id, ReleasePatch(percentage=49, description="less"), by=ANN)
    assert store.releases.release(made.release_id) == made

    assert store.releases.patch(made.release_id, ReleasePatch(percentage=50), by=ANN).percentage == 50
    assert store.releases.patch(made.release_id, ReleasePatch(percentage=100), by=ANN).percentage == 100


def test_a_target_range_that_is_none_is_refused(store: Store) -> None:
    with pytest.raises(InvalidError, match="is not a semantic version"):
        release(store, "1.1.0", target_range="newer than 1")


def test_a_patch_changes_what_it_names_and_nothing_else(store: Store) -> None:
    made = release(store, "1.1.0", percentage=10, description="first", mandatory=True)

    patched = store.releases.patch(
        made.release_id,
        ReleasePatch(mandatory=False, urgency=Urgency.IMMEDIATE, forced=True, description="second"),
        by=ANN,
    )

    assert patched == replace(made, mandatory=False, urgency=Urgency.IMMEDIATE, forced=True, description="second")
    (row,) = [row for row in store.audit.rows(subject=f"release/{made.release_id}") if row.action == "release.patched"]
    assert row.before == {"mandatory": True, "urgency": "gradual", "forced": False, "description": "first"}
    assert row.after == {"mandatory": False, "urgency": "immediate", "forced": True, "description": "second"}
    with pytest.raises(InvalidError, match="at most 500 characters"):
        ReleasePatch(description="x" * 501)


def test_a_disabled_release_takes_no_patch_but_the_one_that_enables_it(store: Store) -> None:
    made = release(store, "1.1.0", percentage=10)
    store.releases.patch(made.release_id, OFF, by=ANN)
    before = store.releases.release(made.release_id)
    notice = store.releases.channel_notice(channel())

    for patch in (ReleasePatch(percentage=50), ReleasePatch(enabled=False, mandatory=True)):
        with pytest.raises(ConflictError, match="v1 of thermostat/everyone/app is disabled; enable it first"):
            store.releases.patch(made.release_id, patch, by=ANN)
    store.releases.patch(made.release_id, OFF, by=ANN)
    assert store.releases.release(made.release_id) == before
    assert store.releases.channel_notice(channel()) == notice

    patched = store.releases.patch(made.release_id, ReleasePatch(enabled=True, percentage=50), by=ANN)
    assert (patched.enabled, patched.percentage, patched.disabled_at_ms) == (True, 50, None)
    with pytest.raises(NotFoundError, match="no release 'rel-0'"):
        store.releases.patch("rel-0", ON, by=ANN)


def test_a_release_shows_how_long_it_was_what_devices_take(store: Store, clock: Clock) -> None:
    first = release(store, "1.0.0")
    clock.pass_s(60)
    assert store.releases.release(first.release_id).duration_s == 60

    second = release(store, "1.1.0")
    clock.pass_s(30)
    shown = store.releases.release(first.release_id)
    assert (shown.duration_s, shown.superseded_at_ms, shown.live) == (60, second.created_at_ms, False)

    store.releases.patch(second.release_id, OFF, by=ANN)
    clock.pass_s(10)
    assert store.releases.release(second.release_id).duration_s == 30
    assert store.releases.release(first.release_id).duration_s == 100
    assert store.releases.release(first.release_id).live


# Rolling back and promoting


def test_a_rollback_is_a_new_label_that_references_the_earlier_one(store: Store) -> None:
    first = release(store, "1.0.0", mandatory=True)
    second = release(store, "1.1.0", percentage=20)
    third = release(store, "1.2.0")
    taken(store, second, "pi-1")

    back = store.releases.rollback(channel(), 2, by=ANN)

    assert (back.label, back.name, back.references_label) == (4, "v4 (references v2)", 2)
    assert (back.firmware, back.percentage, back.enabled, back.live) == (second.firmware, 100, True, True)
    assert back.order > third.order > first.order
    assert store.releases.channel_notice(channel()).releases[0].references == 2


def test_a_rollback_to_what_never_succeeded_is_refused(store: Store) -> None:
    first, second = release(store, "1.0.0"), release(store, "1.1.0")
    broken = join(store, "pi-1")[0]
    broken.fail("1.0.0", first.release_id)

    with pytest.raises(ConflictError, match=r"v1 of .* succeeded on no device, so it cannot be rolled back to"):
        store.releases.rollback(channel(), 1, by=ANN)
    with pytest.raises(ConflictError, match=r"v2 of .* is Live already"):
        store.releases.rollback(channel(), 2, by=ANN)
    with pytest.raises(NotFoundError, match="no label v9"):
        store.releases.rollback(channel(), 9, by=ANN)
    assert [view.label for view in store.releases.releases()] == [2, 1]

    taken(store, first, "pi-2")
    assert store.releases.rollback(channel(), 1, by=ANN).label == 3
    assert second.label == 2


def test_a_success_that_was_taken_back_is_no_reason_to_roll_back(store: Store) -> None:
    first = release(store, "1.0.0")
    release(store, "1.1.0")
    (device,) = join(store, "pi-1", running="0.9.0")
    device.take("1.0.0", first.release_id)
    device.running = {"app": "0.9.0"}
    device.hello()

    with pytest.raises(ConflictError, match="succeeded on no device"):
        store.releases.rollback(channel(), 1, by=ANN)


def test_a_rollback_counts_by_what_it_references(store: Store) -> None:
    first = release(store, "1.0.0")
    taken(store, first, "pi-1")
    release(store, "1.1.0")
    back = store.releases.rollback(channel(), 1, by=ANN)
    release(store, "1.2.0")

    again = store.releases.rollback(channel(), back.label, by=ANN)

    assert (again.name, again.firmware.version) == ("v5 (references v3)", "1.0.0")


def test_a_rollback_below_the_floor_is_refused(store: Store) -> None:
    first = release(store, "1.0.0")
    taken(store, first, "pi-1")
    release(store, "1.1.0")
    store.catalog.set_floors(PRODUCT, {"app": 2}, by=ANN)

    with pytest.raises(ConflictError, match="below the signed floor"):
        store.releases.rollback(channel(), 1, by=ANN)
    store.releases.patch(first.release_id, OFF, by=ANN)
    with pytest.raises(ConflictError, match="below the signed floor"):
        store.releases.patch(first.release_id, ON, by=ANN)


def test_a_rollback_brings_back_who_moved_on_by_an_exact_target(store: Store) -> None:
    (device,) = join(store, "pi-1", running="1.0.0")
    first = release(store, "1.1.0", target_range="1.0.0")
    device.take("1.1.0", first.release_id)
    second = release(store, "1.2.0", target_range="1.1.0")
    device.take("1.2.0", second.release_id)

    back = store.releases.rollback(channel(), 1, by=ANN, urgency=Urgency.IMMEDIATE)

    assert (back.target_range, back.urgency) == ("1.0.0 || =1.2.0", Urgency.IMMEDIATE)
    (decision,) = store.devices.decide("pi-1")
    assert (decision.verdict, decision.wanted and decision.wanted.source_id) == (Verdict.TAKE, back.release_id)


def test_a_success_is_promoted_to_another_group_and_to_a_new_label(store: Store) -> None:
    store.catalog.create_group(PRODUCT, "test", by=ANN)
    made = release(store, "1.1.0", "test", target_range="1.x", mandatory=True, description="tested")
    with pytest.raises(ConflictError, match="succeeded on no device, so it cannot be promoted"):
        store.releases.promote(made.release_id, EVERYONE, by=ANN)
    taken(store, made, "pi-1")

    wide = store.releases.promote(made.release_id, EVERYONE, by=ANN, percentage=25)
    again = store.releases.promote(made.release_id, "test", by=ANN, mandatory=False, description="again")

    assert (wide.channel, wide.label, wide.percentage) == (channel(), 1, 25)
    assert (wide.references_label, wide.promoted_from) == (None, made.release_id)
    assert (wide.target_range, wide.mandatory, wide.description) == ("1.x", True, "tested")
    assert (again.channel, again.name, again.mandatory) == (channel("test"), "v2 (references v1)", False)
    with pytest.raises(NotFoundError, match="no group 'tset'"):
        store.releases.promote(made.release_id, "tset", by=ANN)


# Notices


def test_a_notice_changes_its_number_with_what_it_says_and_only_then(store: Store, clock: Clock) -> None:
    made = release(store, "1.1.0")
    first = store.releases.channel_notice(channel())
    clock.pass_s(100)
    assert encode(store.releases.channel_notice(channel())) == encode(first)
    assert first.seq == first.issued_at_ms == made.created_at_ms

    clock.now_s -= 1000  # a clock that went back must not take the numbers with it
    store.releases.patch(made.release_id, ReleasePatch(description="x"), by=ANN)
    second = store.releases.channel_notice(channel())
    assert second.seq == first.seq + 1
    store.releases.patch(made.release_id, ReleasePatch(description="x"), by=ANN)
    assert store.releases.channel_notice(channel()) == second
    with pytest.raises(NotFoundError, match="never had a release"):
        store.releases.channel_notice(channel("test"))


def test_what_changes_a_notice_has_it_published(store: Store) -> None:
    made = release(store, "1.1.0")
    for item in store.outbox.take():
        store.outbox.settle(item)

    store.releases.patch(made.release_id, OFF, by=ANN)

    assert [(item.kind, item.key) for item in store.outbox.take()] == [(OutboxKind.NOTICE, str(channel()))]
    assert store.releases.channel_notice(channel()).releases == ()


def test_a_notice_that_would_be_too_crowded_refuses_the_release(store: Store) -> None:
    for _ in range(MAX_RELEASES):
        release(store, "1.1.0", percentage=50)
    notice = store.releases.channel_notice(channel())

    with pytest.raises(ConflictError, match=r"65 enabled releases .* nothing was changed"):
        release(store, "1.1.0", percentage=50)
    assert store.releases.channel_notice(channel()) == notice
    assert release(store, "1.1.0").label == MAX_RELEASES + 1
    assert noticed(store) == [MAX_RELEASES + 1]


def test_a_notice_that_would_be_too_large_refuses_the_release(store: Store) -> None:
    models = [f"model-{number}-{'x' * 50}" for number in range(64)]
    store.catalog.add_firmware(
        manifest("4.0.0", 4, hardware=models),
        digest=digest_of("4.0.0"),
        size_bytes=4,
        signer_keyids=(),
        published=True,
        by=ANN,
    )

    def fill() -> None:
        for _ in range(MAX_RELEASES):
            release(store, "4.0.0", percentage=50)

    with pytest.raises(ConflictError, match="do not fit into one notice"):
        fill()
    assert 5 < len(noticed(store)) < MAX_RELEASES
    assert len(noticed(store)) == len(store.releases.releases())


# Forecasts


def test_a_forecast_changes_nothing_and_holds_for_the_release_that_follows(store: Store) -> None:
    join(store, *(f"pi-{number}" for number in range(60)))
    draft = ReleaseDraft(channel=channel(), version="1.1.0", percentage=30, release_id=new_release_id())
    audited = len(store.audit.rows())

    told = store.releases.forecast(draft)
    assert store.releases.releases() == ()
    assert len(store.audit.rows()) == audited

    made = store.releases.create(draft, by=ANN)
    assert made.release_id == draft.release_id
    takers = [
        device.device_id
        for device in store.devices.devices()
        if store.devices.decide(device.device_id)[0].verdict is Verdict.TAKE
    ]
    assert takers == list(told.takes)
    assert 5 < told.reach < 35
    with pytest.raises(ConflictError, match="exists already"):
        store.releases.create(draft, by=ANN)


def test_a_release_to_a_version_that_no_device_runs_is_accepted_and_says_so(store: Store) -> None:
    join(store, "pi-1", "pi-2")
    draft = ReleaseDraft(channel=channel(), version="1.2.0", target_range="7.x", release_id=new_release_id())

    told = store.releases.forecast(draft)

    assert told.reach == 0
    assert told.sentence == "app 1.2.0 to everyone: reaches nobody, because no device runs a version in 7.x"
    assert store.releases.create(draft, by=ANN).live


def test_a_forecast_knows_what_failed_where(store: Store) -> None:
    first = release(store, "1.1.0")
    (device,) = join(store, "pi-1")
    device.fail("1.1.0", first.release_id)
    store.releases.patch(first.release_id, OFF, by=ANN)

    told = store.releases.forecast(ReleaseDraft(channel=channel(), version="1.1.0"))

    assert [(hold.device_id, hold.reason.value) for hold in told.holds] == [("pi-1", "failed_before")]
    steps = store.journal.history("pi-1")[0].steps
    assert [(step.phase, step.outcome) for step in steps][-1] == (Phase.PROVING, Outcome.ROLLED_BACK)
