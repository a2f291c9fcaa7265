"""The store's door: opens the database and holds its rooms, each of which keeps one kind of record.

    store.catalog    products, groups, firmware, floors         store.journal   hello, state, presence, report, history
    store.releases   drafts, labels, patches, rollback          store.metrics   what became of releases
    store.devices    registration, lists, pins, OTAs            store.outbox    what is still to be told
    store.redundancy sets whose members take turns              store.bulk      one decision for many devices
    store.rollouts   what goes by a plan                        store.unplanned what goes by no plan, paused
    store.audit      the hash-chained record of decisions       store.people    who may do what
    store.tokens     what speaks to the API                     store.sessions  who is logged in to the console
    store.enrolment  tokens that let devices enrol              store.certificates  what devices are known by
    store.events     what happened, for timelines               store.webhooks  who is told of it, and what was taken
    store.attention  which devices need somebody, and why       store.samples   the fleet over time

Every method is synchronous and safe to call from any thread: changes take turns (one writer), reads run beside them.
A method that changes something raises StoreError's children, and then has changed nothing. `by` names who decides.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from cloud.store.attention import Attention
from cloud.store.audit import Audit
from cloud.store.bulk import Bulk
from cloud.store.catalog import Catalog
from cloud.store.certificates import Certificates
from cloud.store.devices import Devices
from cloud.store.engine import Database
from cloud.store.enrolment import Enrolment
from cloud.store.events import Events
from cloud.store.importing import Importing
from cloud.store.journal import Journal
from cloud.store.metrics import Metrics
from cloud.store.outbox import Outbox
from cloud.store.overview import Overview
from cloud.store.people import People
from cloud.store.preflights import Preflights
from cloud.store.quiet import Quiet
from cloud.store.redundancy import Redundancy
from cloud.store.releases import Releases
from cloud.store.rollouts import Rollouts
from cloud.store.samples import Samples
from cloud.store.sessions import Sessions
from cloud.store.standings import Standings
from cloud.store.tokens import Tokens
from cloud.store.unplanned import Unplanned
from cloud.store.webhooks import Webhooks


class Store:
    """All records of one cloud; a context manager that closes the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.audit = Audit(database)
        self.outbox = Outbox(database)
        self.catalog = Catalog(database)
        self.releases = Releases(database)
        self.preflights = Preflights(database)
        self.rollouts = Rollouts(database)
        self.unplanned = Unplanned(database)
        self.devices = Devices(database)
        self.bulk = Bulk(database)
        self.redundancy = Redundancy(database)
        self.importing = Importing(database)
        self.journal = Journal(database)
        self.metrics = Metrics(database)
        self.people = People(database)
        self.tokens = Tokens(database)
        self.sessions = Sessions(database)
        self.enrolment = Enrolment(database)
        self.certificates = Certificates(database)
        self.events = Events(database)
        self.standings = Standings(database)
        self.overview = Overview(database)
        self.quiet = Quiet(database)
        self.attention = Attention(database)
        self.samples = Samples(database)
        self.webhooks = Webhooks(database)

    @classmethod
    def open(cls, url: str, now: Callable[[], float]) -> Self:
        """Open the database at `url`, making or migrating its schema.

        It is `sqlite:////absolute/path.db` or `postgresql://user@host/name`.

        `now` gives seconds since 1970 (`time.time`). Raises StoreError if the database cannot be opened, or was
        written by a newer version; it is not changed then.
        """
        return cls(Database.open(url, now))

    def why_not_answering(self) -> str:
        """Return what keeps rows from being read or changed now, in words; nothing if all is well. Takes seconds."""
        return self._database.why_not_answering()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
