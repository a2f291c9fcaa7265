"""A release that undoes itself is not made: its devices would go to and fro between two groups (`cloud.flipping`)."""

from __future__ import annotations

from collections.abc import Mapping

from sqlmodel import Session, col, select

from cloud.fleet import FleetView
from cloud.flipping import Flip, Goers, flipping
from cloud.groups_query import Candidate, Query
from cloud.models import GroupRow
from cloud.store.dynamic_groups import candidates
from cloud.store.errors import ConflictError
from cloud.store.situations import channels_of, ids_of, situations
from cloud.values import ChannelKey
from protocol.down import NoticeRelease
from protocol.identity import EVERYONE


def check_stays(session: Session, channel: ChannelKey, candidate: NoticeRelease, now_ms: int) -> None:
    """Raise ConflictError if devices that take a candidate would be told to go back, because of a group's query."""
    why = what_flips(session, channel, candidate, now_ms)
    if why is not None:
        raise ConflictError(f"{why}; nothing was released")


def what_flips(session: Session, channel: ChannelKey, candidate: NoticeRelease, now_ms: int) -> str | None:
    """Return how devices that take a candidate would be told to go back, and what to do instead; None if none would.

    The product's devices are looked at only where a group's query looks at the component, and it is that group which
    the release is for, or one that has a release of the component already.
    """
    query = select(GroupRow).where(col(GroupRow.product) == channel.product).order_by(col(GroupRow.rank))
    groups = list(session.exec(query.order_by(col(GroupRow.name))))
    read = {it.name: Query.parse(it.query) for it in groups if it.query is not None}
    queries = {name: of for name, of in read.items() if channel.component in of.components}
    if not queries:
        return None
    channels = channels_of(session, channel.product)
    if not any(name == channel.group or (name, channel.component) in channels for name in queries):
        return None
    ids = ids_of(channel.product, group=channel.group)

    def own() -> Mapping[str, Candidate]:
        return candidates(session, channel.product, ids, with_components=False)

    devices = situations(session, channel.product, ids, many=True)
    view = FleetView(product=channel.product, channels=channels, devices=devices, now_ms=now_ms)
    goers = Goers(queries=queries, ranked=(*(it.name for it in groups if it.name != EVERYONE), EVERYONE), own=own)
    found = flipping(view, candidate, channel.group, goers)
    return _sentence(channel, found, queries) if found else None


def _sentence(channel: ChannelKey, found: Mapping[Flip, int], queries: Mapping[str, Query]) -> str:
    devices = sum(found.values())
    flip = max(found, key=lambda it: (found[it], it))
    took, *then = flip.came_by
    which = f"group {flip.group}, which goes by the version of {channel.component} ({queries[flip.group].text})"
    return (
        f"{devices} device{'s' if devices > 1 else ''} would not keep {channel.component} {took}: with it they "
        f"{'leave' if flip.leaves else 'join'} {which}, and are then told to take {', then '.join(then)}; "
        "it may go on so for ever. "
        f"Release it to a group whose query does not look at {channel.component}, or to {EVERYONE} (`release push "
        "--range` chooses by what runs, and who took a release keeps it)"
    )
