"""What happened, as frozen values and in words: events, and a subject's events and audited decisions in one order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloud.values import AuditView

MAX_WORDS: Final = 300
KINDS: Final = frozenset(
    {
        *("release.created", "release.patched", "release.disabled"),
        *("rollout.phase", "rollout.paused", "rollout.resumed", "rollout.gate", "rollout.stratum_stopped"),
        *("rollout.completed", "rollout.aborted", "rollout.approved", "rollout.retried"),
        *("device.updated", "device.rolled_back", "device.failed", "device.success_taken_back", "device.quiet"),
        *("turn.granted", "turn.taken_away"),
        "webhook.test",
    }
)
"""What can happen, as webhooks choose it."""
_OF_MANY: Final = frozenset({"devices", "devices_sha256"})
_OF_ALL: Final = _OF_MANY | {"number", "of", "chosen", "superseded_otas", "bulk"}
"""What a decision for many devices says of all of them."""
_IN_GROUP: Final = {"added": "joined", "removed": "left"}
_ON_WHAT_TERMS: Final = frozenset({"device", "urgency", "forced"})
_LEFT_OUT: Final = frozenset({"by", "channel", "label"})
_AUDITED_AS: Final = {"release.disabled": "release.patched"}
"""Events whose decision the audit calls by another name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """Something that happened to `subject` (`release/ID`, `device/ID`); `source` is the release that it came of."""

    number: int
    at_ms: int
    kind: str
    product: str
    subject: str
    source: str | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A line of a timeline: what happened, in words too; `actor` is who decided it, where somebody did.

    `decision` is the row of the audit of one that was about other devices, too: by it they are all found.
    """

    at_ms: int
    kind: str
    subject: str
    actor: str | None
    words: str
    data: Mapping[str, Any]
    decision: int | None = None


def timeline(subject: str, events: Sequence[EventView], decisions: Sequence[AuditView]) -> tuple[Moment, ...]:
    """Return a subject's events and audited decisions, oldest first; what was both noted and audited is told once.

    Both must be in the order of their numbers, and stay in it; clocks that were put back change nothing of that.
    """
    noted = {(_AUDITED_AS.get(item.kind, item.kind), item.at_ms) for item in events if item.subject == subject}
    actors = {(item.action, item.at_ms): item.actor for item in decisions}
    rest = [item for item in decisions if (item.action, item.at_ms) not in noted][::-1]
    moments: list[Moment] = []
    for event in events:
        while rest and rest[-1].at_ms <= event.at_ms:
            moments.append(_of_decision(subject, rest.pop()))
        moments.append(_of_event(subject, event, actors.get((_AUDITED_AS.get(event.kind, event.kind), event.at_ms))))
    return (*moments, *(_of_decision(subject, it) for it in reversed(rest)))


def _of_event(subject: str, event: EventView, actor: str | None) -> Moment:
    own = event.subject == subject
    whose = "" if own else f"{event.subject.partition('/')[2]}: "
    by = event.data.get("by", actor if own else None)
    return Moment(
        at_ms=event.at_ms,
        kind=event.kind,
        subject=event.subject,
        actor=by if isinstance(by, str) else None,
        words=(whose + describe(event.kind, event.data))[:MAX_WORDS],
        data=event.data,
    )


def _of_decision(subject: str, decision: AuditView) -> Moment:
    after = decision.after if isinstance(decision.after, dict) else {}
    before = decision.before if isinstance(decision.before, dict) else {}
    if subject.startswith("device/") and not _OF_MANY.isdisjoint(after.keys() | before.keys()):
        return _of_many(decision, after, before)
    return Moment(
        at_ms=decision.at_ms,
        kind=decision.action,
        subject=decision.subject,
        actor=decision.actor,
        words=describe(decision.action, after, before)[:MAX_WORDS],
        data={"before": decision.before, "after": decision.after},
    )


def _of_many(decision: AuditView, after: Mapping[str, Any], before: Mapping[str, Any]) -> Moment:
    """Return what a decision for many devices is to one of them: not who the others are."""
    number = after.get("number") or len((after or before)["devices"])
    after, before = ({name: it for name, it in said.items() if name not in _OF_ALL} for said in (after, before))
    what, _, name = decision.action.partition(".")
    group = decision.subject.rpartition("/")[2]
    words = f"group {group} {_IN_GROUP.get(name, name)}" if what == "group" else describe(decision.action, after)
    if number > 1:
        words += f", with {number - 1:,} other{'' if number == 2 else 's'} by one decision"
    return Moment(
        at_ms=decision.at_ms,
        kind=decision.action,
        subject=decision.subject,
        actor=decision.actor,
        words=words[:MAX_WORDS],
        data={"before": before or None, "after": after or None, "number": number},
        decision=decision.number,
    )


def describe(kind: str, data: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """Return what happened, in words; a kind that is not known here is told with what it carries."""
    if kind in _WORDS:
        return _WORDS[kind](data)
    if kind == "device.unpinned":
        return f"unlocked: {', '.join(map(str, before or {}))}"
    name = kind.partition(".")[2].replace("_", " ") or kind
    if isinstance(data.get("before"), Mapping) and isinstance(data.get("after"), Mapping):
        before, data = data["before"], data["after"]
    changes = [
        f"{_name(key)} {_value((before or {})[key])} → {_value(value)}"
        if key in (before or {})
        else f"{_name(key)} {_value(value)}"
        for key, value in data.items()
        if key not in _LEFT_OUT and value not in (None, "", [], {})
    ]
    return name + (f": {', '.join(changes)}" if changes else "")


def _created(data: Mapping[str, Any]) -> str:
    firmware = data.get("firmware")
    version = data.get("version") or (firmware.get("version") if isinstance(firmware, Mapping) else None)
    channel = data.get("channel")
    return _join(f"v{data.get('label')} of {channel} released:", version, f"{data.get('percentage')} %")


def _patched(data: Mapping[str, Any]) -> str:
    return "enabled again" if data.get("after") == {"enabled": True} else describe("release.changed", data)


def _updated(data: Mapping[str, Any]) -> str:
    return _join("updated to", _firmware(data), _from(data), _by_label(data))


def _back(data: Mapping[str, Any]) -> str:
    return _join("rolled back from", _firmware(data), _by_label(data)) + _why(data)


def _failed(data: Mapping[str, Any]) -> str:
    return _join("failed to take", _firmware(data), _by_label(data)) + _why(data)


def _taken_back(data: Mapping[str, Any]) -> str:
    return _join("its success with", _firmware(data), "is taken back") + _why(data)


def _ordered(data: Mapping[str, Any]) -> str:
    """Return the component and version of a lock or an OTA, and how it is to come."""
    what = ", ".join(f"{key} {value}" for key, value in data.items() if key not in _ON_WHAT_TERMS)
    terms = [*(["gradual"] if data.get("urgency") == "gradual" else []), *(["forced"] if data.get("forced") else [])]
    return what + (f" ({', '.join(terms)})" if terms else "")


def _closed(data: Mapping[str, Any]) -> str:
    return f"single-device OTA {_value(data.get('status'))}" + _because(data)


def _opened(data: Mapping[str, Any]) -> str:
    share = data.get("percentage")
    covers = f"{share} %" if share is not None else data.get("group") and f"group {data['group']}"
    return _join("phase", data.get("phase"), "of", data.get("of"), "is open") + (f" ({covers})" if covers else "")


def _stopped(data: Mapping[str, Any]) -> str:
    what = "rolled back" if data.get("then") == "roll_back" else "paused"
    return f"{what} by the gate {_value(data.get('gate'))}"


def _because(data: Mapping[str, Any]) -> str:
    after = data.get("after")
    why = data.get("why") or (after.get("why") if isinstance(after, Mapping) else None)
    return f": {why}" if why else ""


def _firmware(data: Mapping[str, Any]) -> str:
    return _join(data.get("component"), data.get("version"))


def _from(data: Mapping[str, Any]) -> str | None:
    return f"from {data['from_version']}" if data.get("from_version") else None


def _by_label(data: Mapping[str, Any]) -> str | None:
    return f"({data['group']} v{data['label']})" if data.get("label") and data.get("group") else None


def _why(data: Mapping[str, Any]) -> str:
    why = [_value(data[key]) for key in ("reason", "detail") if data.get(key)]
    return f": {': '.join(why)}" if why else ""


def _join(*parts: object) -> str:
    return " ".join(str(part) for part in parts if part not in (None, ""))


def _name(key: object) -> str:
    return str(key).replace("_", " ")


def _value(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return "{" + ", ".join(f"{key}={_value(item)}" for key, item in value.items()) + "}"
        case str():
            return value.replace("_", " ") if " " not in value else value
        case Iterable():
            return ", ".join(map(_value, value))
    return str(value)


_WORDS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "release.created": _created,
    "release.patched": _patched,
    "release.disabled": lambda _data: "disabled",
    "rollout.phase": lambda data: _opened(data) + _because(data),
    "rollout.gate": lambda data: _stopped(data) + _because(data),
    "rollout.stratum_stopped": lambda data: f"stopped for {_value(data.get('stratum'))}" + _because(data),
    "rollout.paused": lambda data: "paused" + _because(data),
    "rollout.resumed": lambda _data: "resumed",
    "rollout.aborted": lambda data: "aborted" + _because(data),
    "rollout.completed": lambda data: "completed" + _because(data),
    **dict.fromkeys(("device.pinned", "devices.pinned"), lambda data: f"locked to {_ordered(data)}"),
    "devices.unpinned": lambda data: f"unlocked: {data.get('component')}",
    **dict.fromkeys(("ota.created", "devices.ota_created"), lambda data: f"single-device OTA to {_ordered(data)}"),
    "ota.closed": _closed,
    "device.updated": _updated,
    "device.rolled_back": _back,
    "device.failed": _failed,
    "device.success_taken_back": _taken_back,
}
