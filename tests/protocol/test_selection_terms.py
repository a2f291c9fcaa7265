"""What a release's terms mean for who takes it, and what keeps a device from what it should run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.down import NoticeRelease, Ota
from protocol.facts import DeviceFacts
from protocol.identity import bucket, place
from protocol.manifest import Requirements
from protocol.schedule import Ramp, Stratum, Terms
from protocol.selection import Assignment, Channels, Decision, Rule, Verdict, select
from protocol.values import ComponentState, FirmwareRef

GROUPS = Assignment(groups=("canaries", "everyone"))
EVERYONE = Assignment(groups=("everyone",))


def firmware(number: int, component: str = "app", **changes: object) -> FirmwareRef:
    ref = FirmwareRef(
        component=component,
        version=f"1.{number}.0",
        build=number,
        seq=number,
        digest=f"{number:063x}{'a' if component == 'app' else '0'}",
        size_bytes=10,
        hardware_models=("pi4",),
    )
    return replace(ref, **changes)  # type: ignore[arg-type]


def changed(ref: FirmwareRef, changes: dict[str, object]) -> FirmwareRef:
    return replace(ref, **changes)  # type: ignore[arg-type]


def release(number: int, component: str = "app", **changes: object) -> NoticeRelease:
    made = NoticeRelease(
        release_id=f"{component}-{number}", label=number, order=number, firmware=firmware(number, component)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def runs(number: int, component: str = "app", **changes: object) -> ComponentState:
    there = firmware(number, component)
    state = ComponentState(component=component, version=there.version, build=there.build, digest=there.digest)
    return replace(state, **changes)  # type: ignore[arg-type]


def device(*states: ComponentState, device_id: str = "pi-1", **changes: object) -> DeviceFacts:
    components = {state.component: state for state in states or (runs(1),)}
    facts = DeviceFacts(device_id=device_id, hardware_model="pi4", agent_version="0.1.0", components=components)
    return replace(facts, **changes)  # type: ignore[arg-type]


def decide(
    facts: DeviceFacts, *releases: NoticeRelease, assignment: Assignment = EVERYONE, now_ms: int = 1000
) -> Decision:
    newest_first = sorted(releases, key=lambda item: -item.label)
    return select(facts, assignment, {("everyone", "app"): newest_first}, "app", now_ms=now_ms)


def outcome(decision: Decision) -> tuple[Verdict, str | None, Rule | None]:
    return decision.verdict, decision.wanted.source_id if decision.wanted else None, decision.blocked_by


def outside(percentage: int, release_id: str) -> str:
    return next(f"pi-{n}" for n in range(1000) if bucket(f"pi-{n}", release_id) >= percentage)


# Who keeps out of a release, and so has the one before.


@pytest.mark.parametrize(
    ("terms", "rule", "saw"),
    [
        (Terms(not_before_ms=1001), Rule.NOT_BEFORE, "not begun"),
        (Terms(paused=True), Rule.PAUSED, "paused"),
        (Terms(stopped=(Stratum(hardware_model="pi4"),)), Rule.STRATUM, "stopped for pi4"),
        (Terms(stopped=(Stratum(from_version="1.1.0"),)), Rule.STRATUM, "stopped for devices on 1.1.0"),
    ],
)
def test_who_a_release_is_not_open_for_has_the_one_before(terms: Terms, rule: Rule, saw: str) -> None:
    decision = decide(device(runs(1)), release(1), release(2, terms=terms))
    assert outcome(decision) == (Verdict.RUNS, "app-1", None)
    assert [(step.rule, step.saw) for step in decision.trace if not step.passed] == [(rule, saw)]


@pytest.mark.parametrize(
    "terms",
    [
        Terms(not_before_ms=1000),
        Terms(stopped=(Stratum(hardware_model="pi5"), Stratum(hardware_model="pi4", from_version="1.9.0"))),
        Terms(ramp=Ramp(from_percentage=0, starts_at_ms=0, ends_at_ms=1000)),
    ],
)
def test_who_it_is_open_for_takes_it(terms: Terms) -> None:
    assert outcome(decide(device(), release(2, terms=terms))) == (Verdict.TAKE, "app-2", None)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(paused=True),
        Terms(not_before_ms=5000),
        Terms(stopped=(Stratum(),)),
        Terms(ramp=Ramp(from_percentage=0, starts_at_ms=5000, ends_at_ms=9000)),
    ],
)
def test_who_runs_it_is_never_moved_back_by_terms(terms: Terms) -> None:
    assert outcome(decide(device(runs(2)), release(1), release(2, terms=terms))) == (Verdict.RUNS, "app-2", None)


def test_canaries_go_first_whatever_the_percentage() -> None:
    first = release(2, percentage=0, terms=Terms(canaries=("canaries",)))
    assert outcome(decide(device(), first, assignment=GROUPS)) == (Verdict.TAKE, "app-2", None)
    assert outcome(decide(device(), first)) == (Verdict.NOTHING, None, Rule.NOTHING)
    paused = replace(first, terms=replace(first.terms, paused=True))
    assert outcome(decide(device(), paused, assignment=GROUPS)) == (Verdict.NOTHING, None, Rule.NOTHING)


def test_a_release_that_has_not_begun_is_asked_about_again_in_its_moment() -> None:
    assert decide(device(), release(2, terms=Terms(not_before_ms=1234))).again_at_ms == 1234
    assert decide(device(), release(2, terms=Terms(not_before_ms=1000))).again_at_ms is None


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 100), st.integers(1, 10**7), st.integers(0, 2 * 10**7))
def test_time_alone_changes_a_decision_at_again_at_and_not_before(
    number: int, start: int, end: int, lasts_ms: int, now_ms: int
) -> None:
    ramp = Ramp(from_percentage=min(start, end), starts_at_ms=10**6, ends_at_ms=10**6 + lasts_ms)
    made = release(2, percentage=max(start, end), terms=Terms(ramp=ramp))
    facts = device(device_id=f"pi-{number}")
    decision = decide(facts, made, now_ms=now_ms)
    if decision.again_at_ms is None:
        assert outcome(decide(facts, made, now_ms=10**9)) == outcome(decision)
        return
    assert decision.again_at_ms > now_ms
    assert outcome(decide(facts, made, now_ms=decision.again_at_ms - 1)) == outcome(decision)
    if decision.verdict is Verdict.NOTHING:
        assert decide(facts, made, now_ms=decision.again_at_ms).verdict is Verdict.TAKE


def test_a_ramp_divides_a_bucket() -> None:
    where = place("pi-1", "app-2")
    ramp = Ramp(from_percentage=0, starts_at_ms=0, ends_at_ms=1_000_000)
    made = release(2, terms=Terms(ramp=ramp))
    assert decide(device(), made, now_ms=where).verdict is Verdict.NOTHING
    assert decide(device(), made, now_ms=where).again_at_ms == where + 1
    assert decide(device(), made, now_ms=where + 1).verdict is Verdict.TAKE


def test_the_earliest_moment_of_several_is_told() -> None:
    later, sooner = Terms(not_before_ms=9000), Terms(not_before_ms=5000)
    decision = decide(device(), release(2, terms=sooner), release(3, terms=later))
    assert decision.again_at_ms == 5000


# What is wanted, and blocked.


@pytest.mark.parametrize(
    ("facts", "changes", "rule", "saw"),
    [
        (
            device(),
            {"requires": Requirements(components={"os": ">=2.0.0"})},
            Rule.REQUIREMENT,
            "needs os >=2.0.0, has none",
        ),
        (device(), {"requires": Requirements(agent="9.0.0")}, Rule.REQUIREMENT, "needs agent 9.0.0, has 0.1.0"),
        (
            device(runs(1), runs(1, "os", requires={"app": "<1.2.0"})),
            {},
            Rule.BREAKS,
            "os 1.1.0, which is installed, needs app <1.2.0",
        ),
        (
            device(runs(1, data_schema=4)),
            {"data_schema": 5, "reads_schemas": (3,)},
            Rule.DATA_SCHEMA,
            "cannot read data of schema 4, which 1.1.0 keeps",
        ),
        (device(declined=frozenset({"app-2"})), {}, Rule.DECLINED, "declined by somebody at the device"),
    ],
)
def test_what_keeps_a_device_from_what_it_should_run(
    facts: DeviceFacts, changes: dict[str, object], rule: Rule, saw: str
) -> None:
    decision = decide(facts, release(1), release(2, firmware=changed(firmware(2), changes)))
    assert outcome(decision) == (Verdict.BLOCKED, "app-2", rule)
    assert (decision.trace[-1].rule, decision.trace[-1].saw, decision.trace[-1].passed) == (rule, saw, False)


@pytest.mark.parametrize(
    ("facts", "changes"),
    [
        (device(runs(1), runs(2, "os")), {"requires": Requirements(components={"os": ">=1.2.0"})}),
        (device(runs(1), runs(1, "os", requires={"app": ">=1.1.0"})), {}),
        (device(runs(1, requires={"app": "<1.0.0"})), {}),
        (device(runs(1, data_schema=4)), {"data_schema": 5, "reads_schemas": (3, 4)}),
        (device(runs(1, data_schema=4)), {"data_schema": 4}),
        (device(declined=frozenset({"app-1", "app-3"})), {}),
    ],
)
def test_what_keeps_a_device_from_nothing(facts: DeviceFacts, changes: dict[str, object]) -> None:
    assert outcome(decide(facts, release(2, firmware=changed(firmware(2), changes)))) == (Verdict.TAKE, "app-2", None)


def test_what_was_declined_is_not_the_newer_one() -> None:
    decision = decide(device(declined=frozenset({"app-2"})), release(2), release(3))
    assert outcome(decision) == (Verdict.TAKE, "app-3", None)


@pytest.mark.parametrize(("retried_at", "verdict"), [(0, Verdict.BLOCKED), (7, Verdict.BLOCKED), (8, Verdict.TAKE)])
def test_a_retry_forgets_the_failures_before_it_and_no_later_ones(retried_at: int, verdict: Verdict) -> None:
    facts = device(failed={firmware(2).digest: 7})
    decision = decide(facts, release(2, terms=Terms(retried_at=retried_at)))
    assert decision.verdict is verdict
    assert decision.wanted is not None
    assert decision.wanted.tried_order == max(2, retried_at)


def test_a_release_s_own_order_is_no_retry() -> None:
    facts = device(failed={firmware(9).digest: 7})
    assert decide(facts, release(9)).verdict is Verdict.BLOCKED
    otas = (Ota(ota_id="o-1", order=10, firmware=firmware(9)),)
    assert decide(facts, release(9), assignment=replace(EVERYONE, otas=otas)).verdict is Verdict.TAKE


# The base.


def both(app: NoticeRelease, base: NoticeRelease) -> Channels:
    return {("everyone", "app"): (app,), ("everyone", "os"): (base,)}


def test_a_product_of_its_base_alone_moves_nothing_else() -> None:
    channels, alone = both(release(2), release(2, "os")), replace(EVERYONE, base_only=True)
    facts = device(runs(1), runs(1, "os"))
    assert outcome(select(facts, alone, channels, "app", now_ms=0)) == (Verdict.NOTHING, None, Rule.BASE_ONLY)
    assert outcome(select(facts, alone, channels, "os", now_ms=0)) == (Verdict.TAKE, "os-2", None)


@pytest.mark.parametrize(
    ("facts", "base", "verdict"),
    [
        (device(runs(1), runs(1, "os")), {}, Verdict.BLOCKED),
        (device(runs(1), runs(2, "os")), {}, Verdict.TAKE),
        (device(runs(1), runs(1, "os"), failed={firmware(2, "os").digest: 99}), {}, Verdict.BLOCKED),
        (device(runs(1), runs(1, "os")), {"target_range": ">=9.0.0"}, Verdict.TAKE),
        (device(runs(1), runs(1, "os"), device_id=outside(10, "os-2")), {"percentage": 10}, Verdict.TAKE),
    ],
)
def test_what_comes_first_comes_first_for_those_whom_it_reaches(
    facts: DeviceFacts, base: dict[str, object], verdict: Verdict
) -> None:
    channels = both(release(2), release(2, "os", terms=Terms(base_first=True), **base))
    decision = select(facts, EVERYONE, channels, "app", now_ms=0)
    assert decision.verdict is verdict
    assert decision.blocked_by is (Rule.BASE_FIRST if verdict is Verdict.BLOCKED else None)
    if verdict is Verdict.BLOCKED:
        assert decision.trace[-1].saw == "os 1.2.0 comes first"


@pytest.mark.parametrize(
    ("terms", "saw"),
    [
        (Terms(base_first=True, paused=True), "os 1.2.0 comes first, and is paused"),
        (Terms(base_first=True, not_before_ms=1), "os 1.2.0 comes first, and has not begun"),
        (Terms(base_first=True, not_before_ms=1, paused=True), "os 1.2.0 comes first, and is paused"),
        (Terms(base_first=True, paused=True, stopped=(Stratum(),)), None),
        (Terms(paused=True), None),
    ],
)
def test_what_comes_first_is_waited_for_while_it_is_paused_or_has_yet_to_begin(terms: Terms, saw: str | None) -> None:
    facts, app = device(runs(1), runs(1, "os")), release(2)
    decision = select(facts, EVERYONE, both(app, release(2, "os", terms=terms)), "app", now_ms=0)
    assert (decision.trace[-1].saw if decision.verdict is Verdict.BLOCKED else None) == saw
    base = select(facts, EVERYONE, both(app, release(2, "os", terms=terms)), "os", now_ms=0)
    assert base.verdict is (Verdict.NOTHING)
    nobody = both(app, release(2, "os", terms=terms, percentage=0))
    assert select(facts, EVERYONE, nobody, "app", now_ms=0).verdict is Verdict.TAKE


def test_what_comes_first_waits_for_nobody_and_a_lock_neither() -> None:
    first = Terms(base_first=True)
    channels, facts = both(release(2, terms=first), release(2, "os", terms=first)), device(runs(1), runs(1, "os"))
    assert {select(facts, EVERYONE, channels, name, now_ms=0).verdict for name in ("app", "os")} == {Verdict.TAKE}
    pinned = replace(EVERYONE, pins=(firmware(3),))
    channels = both(release(2), release(2, "os", terms=first))
    assert select(facts, pinned, channels, "app", now_ms=0).verdict is Verdict.TAKE
