"""Reads a rollout's story, line by line, and writes it back with what happened and what was answered, indented.

    # a comment
    firmware 2.0.0 component=os requires=os:>=2.0.0 hardware=pi4 schema=2 reads=1   others are made when first named
    fleet 20 pi4 app=1.0.0 groups=pilot timezone=Asia/Tokyo                         pi-1, pi-2, ... numbered through
    set pair pi-1 pi-2                                                              never two unconfirmed at once
    product base-only | product approvals=1 | group tokyo timezone = "Asia/Tokyo"
    release v1 1.1.0 to pilot component=os range=1.x 50% gradual forced PLAN        PLAN as in `scenario_plans`
    firmware-fails 2.0.0 health_failed on pi3 | firmware-kills 2.0.0 on 1.0.0       what it does to devices
    every 1h                                                                        how often the guard looks at least
    at 40m DEED | at 40m                                                            time passes until then

Deeds: `pi-3 fails health_failed`, `works`, `dies`, `goes`, `returns`, `holds nurse`, `releases`, `disables`, `enables`,
`consents v2`, `declines v2`, `defers v2 2h`, `joins pilot`, `leaves pilot`, `flips-back 1.0.0`, `lies v2`, `repeats`,
`forgets`, `clock +2h`, `crashes 5`, `gauge temp 90`; `v2 pauses`, `resumes`, `aborts`, `retries`, `advances`,
`approved bob`, `disabled`, `enabled`, `percentage 50`, `rolls-back-to v1`, `promoted pilot`; `ota pi-3 1.1.0`,
`ota-cancel pi-3`, `pin pi-3 1.0.0`, `unpin pi-3`, `turn-away pi-3`, `cloud restarts`, and all that makes things.
Questions: `status v2`, `page v2`, `holds`, `why pi-3`, `runs`, `tries pi-3`.

A story is right when writing it back changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from cloud.fleet import AttemptFilter
from cloud.planner import plan
from cloud.values import ReleaseDraft
from protocol.identity import EVERYONE
from protocol.phases import Reason
from protocol.values import Urgency
from tests.cloud.scenario_deeds import DeviceDeeds, ReleaseDeeds, channel_of
from tests.cloud.scenario_devices import PRODUCT, START_S, Mishap
from tests.cloud.scenario_plans import Words, policy_of, seconds, terms_of
from tests.cloud.scenario_world import ANN, MODELS, World, open_world


class Story:
    """What a story has told so far."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fails: list[tuple[str, str, Mishap]] = []

    def line(self, text: str) -> list[str]:
        """Take one line and return what happened, and the answers if it asked something."""
        word, *rest = text.split()
        answers: list[str] = []
        if word == "at":
            self.world.advance(seconds(rest[0]))
            word, rest = rest[1] if rest[1:] else "", rest[2:]
        if word:
            # What was done before a question stands above its answer.
            answers = self._do(word, rest)
        happened, self.world.happened = self.world.happened, []
        return happened + answers

    def _do(self, word: str, rest: list[str]) -> list[str]:
        world = self.world
        question: Callable[..., list[str]] | None = getattr(self, "_asked_" + word, None)
        if question is not None:
            return question(*rest)
        with world.refusing():
            if word in world.actors:
                DeviceDeeds(world).do(word, *rest)
            elif word in world.releases:
                ReleaseDeeds(world).do(word, *rest)
            else:
                getattr(self, "_" + word.replace("-", "_"))(*rest)
        self._apply_mishaps()
        world.watch()
        world.settle()
        return []

    # What there is

    def _firmware(self, version: str, *options: str) -> None:
        given = dict(option.split("=", 1) for option in options)
        self.world.firmware(
            version,
            given.get("component", "app"),
            hardware=tuple(given["hardware"].split(",")) if "hardware" in given else MODELS,
            requires=dict(it.split(":", 1) for it in given.get("requires", "").split(",") if it),
            schema=int(given.get("schema", 0)),
            reads=tuple(int(it) for it in given.get("reads", "").split(",") if it),
        )

    def _fleet(self, count: str, model: str, *options: str) -> None:
        given = dict(option.split("=", 1) for option in options)
        running = {name: version for name, version in given.items() if name in ("app", "os")}
        groups = tuple(name for name in given.get("groups", "").split(",") if name)
        first = len(self.world.actors) + 1
        for number in range(first, first + int(count)):
            self.world.join(f"pi-{number}", model, running, groups, given.get("timezone", ""))

    def _set(self, name: str, *device_ids: str) -> None:
        self.world.store.redundancy.create_set(name, by=ANN)
        self.world.store.redundancy.add_to_set(name, device_ids, by=ANN)

    def _product(self, word: str) -> None:
        name, _, value = word.partition("=")
        catalog = self.world.store.catalog
        if name == "approvals":
            catalog.set_policy(PRODUCT, approvals=int(value), by=ANN)
        else:
            catalog.set_policy(PRODUCT, **{name.replace("-", "_"): value != "off"}, by=ANN)

    def _group(self, name: str, *query: str) -> None:
        self.world.store.catalog.create_group(PRODUCT, name, query=" ".join(query) or None, by=ANN)

    def _delete_group(self, name: str) -> None:
        self.world.store.catalog.delete_group(PRODUCT, name, by=ANN)

    def _floor(self, component: str, seq: str) -> None:
        self.world.store.catalog.set_floors(PRODUCT, {component: int(seq)}, by=ANN)

    def _release(self, label: str, version: str, *options: str) -> None:
        words = Words(list(options))
        group = words.after("to") or EVERYONE
        component = next((it.split("=")[1] for it in options if it.startswith("component=")), "app")
        target = next((it.split("=", 1)[1].replace("_", " ") for it in options if it.startswith("range=")), "*")
        self.world.firmware(version, component)
        if group != EVERYONE:
            self.world.group(group)
        terms = terms_of(words, START_S * 1000)
        policy = policy_of(words, terms)
        draft = ReleaseDraft(
            channel=channel_of(group, component),
            version=version,
            percentage=next((int(it[:-1]) for it in words.left if re.fullmatch(r"\d+%", it)), 100),
            forced=words.flag("forced"),
            urgency=Urgency.GRADUAL if words.flag("gradual") else Urgency.IMMEDIATE,
            target_range=target,
            release_id=f"rel-{label.replace('/', '-')}",
            terms=terms,
        )
        made = self.world.store.releases.create(draft, by=ANN, policy=policy)
        assert label.rpartition("/")[2].split("-")[-1] == f"v{made.label}", f"{label} is v{made.label}"
        self.world.releases[label] = made.release_id

    def _firmware_fails(self, version: str, reason: str, on: str = "", who: str = "") -> None:
        assert on in ("", "on")
        self.fails.append((version, who, Mishap(Reason(reason))))

    def _firmware_kills(self, version: str, on: str = "", who: str = "") -> None:
        assert on in ("", "on")
        self.fails.append((version, who, Mishap(None)))

    def _firmware_works(self, version: str) -> None:
        self.fails = [it for it in self.fails if it[0] != version]
        for actor in self.world.actors.values():
            actor.mishaps.pop(version, None)

    def _apply_mishaps(self) -> None:
        for version, who, mishap in self.fails:
            for actor in self.world.actors.values():
                if who in ("", actor.model, actor.components["app"].version):
                    actor.mishaps[version] = mishap

    def _ota(self, device_id: str, version: str) -> None:
        self.world.firmware(version)
        self.world.store.devices.create_ota(device_id, "app", version, by=ANN)

    def _ota_cancel(self, device_id: str) -> None:
        ota = next(it for it in self.world.store.devices.otas(device_id) if it.in_force)
        self.world.store.devices.cancel_ota(ota.ota_id, by=ANN)

    def _pin(self, device_id: str, version: str) -> None:
        self.world.firmware(version)
        self.world.store.devices.pin(device_id, "app", version, by=ANN)

    def _unpin(self, device_id: str) -> None:
        self.world.store.devices.unpin(device_id, "app", by=ANN)

    def _turn_away(self, device_id: str) -> None:
        self.world.store.redundancy.take_turn_away(device_id, by=ANN)

    def _every(self, period: str) -> None:
        self.world.look_s = seconds(period)

    def _cloud(self, what: str) -> None:
        assert what == "restarts"
        self.world.restart()

    # Questions

    def _asked_status(self, label: str) -> list[str]:
        """What the cloud counts of a release; a number that is negative would be seen here."""
        told = self.world.store.metrics.release(self.world.releases[label])
        numbers = {"installed": told.installs, "run it": told.active, "under way": told.under_way}
        numbers |= {f"rolled back ({reason})": count for reason, count in sorted(told.rollbacks.items())}
        numbers |= {f"failed ({reason})": count for reason, count in sorted(told.failures.items())}
        numbers |= {f"cancelled ({reason})": count for reason, count in sorted(told.cancellations.items())}
        numbers["taken back"] = told.taken_back
        assert all(count >= 0 for count in numbers.values())
        always = ("installed", "run it")
        said = ", ".join(f"{count} {name}" for name, count in numbers.items() if count or name in always)
        return [f"of {told.group_devices}: {said}"]

    def _asked_page(self, label: str) -> list[str]:
        """How a rollout stands, and what it waits for."""
        page = self.world.store.rollouts.page(self.world.releases[label])
        return [f"{page.standing.status.value.replace('_', ' ')}: {page.why}"]

    def _asked_holds(self) -> list[str]:
        """Why each device is not moved now, counted."""
        made = plan(self.world.view, round(self.world.clock() * 1000))
        counts = Counter(f"{hold.component} {hold.reason.value}" for hold in made.holds)
        counts.update(f"{move.component} takes {move.firmware.version}" for move in made.actions)
        return [f"{count} {what}" for what, count in sorted(counts.items(), key=lambda it: (-it[1], it[0]))]

    def _asked_why(self, device_id: str) -> list[str]:
        made = plan(self.world.store.devices.alone(device_id), round(self.world.clock() * 1000))
        takes = [f"{move.component} takes {move.firmware.version}" for move in made.actions]
        return [*takes, *(f"{hold.component} {hold.reason.value}: {hold.detail}" for hold in made.holds)]

    def _asked_runs(self) -> list[str]:
        """What devices really run, whatever anybody says."""
        found: dict[str, list[str]] = {}
        for actor in self.world.actors.values():
            for state in actor.components.values():
                found.setdefault(f"{state.component} {state.version}", []).append(actor.device_id)
        return [f"{what}: {_few(devices)}" for what, devices in sorted(found.items())]

    def _asked_tries(self, device_id: str) -> list[str]:
        """A device's attempts, oldest first."""
        lines = []
        for it in reversed(self.world.store.journal.attempts(AttemptFilter(device_id=device_id))):
            how = it.outcome.value if it.outcome else f"is {it.phase.value}"
            why = f" ({it.reason.value})" if it.reason else ""
            back = ", taken back" if it.taken_back_at_ms else ""
            lines.append(f"{it.version} {it.via.value}: {how}{why}{back}")
        return lines


def _few(device_ids: list[str]) -> str:
    return " ".join(device_ids) if len(device_ids) <= 6 else f"{len(device_ids)} devices"


def write_back(text: str, template: Path, directory: Path) -> str:
    """Return the story with what happens in it made anew, in a copy of the database at `template`."""
    world = open_world(template, directory)
    try:
        return "\n".join(_told(Story(world), text.splitlines())) + "\n"
    finally:
        world.close()


def _told(story: Story, lines: Iterable[str]) -> list[str]:
    told = []
    for line in lines:
        if line.startswith("    "):
            continue
        told.append(line)
        if line and not line.startswith("#"):
            told += [f"    {answer}" for answer in story.line(line)]
    return told
