"""What `fleetlift serve` runs beside the service: webhooks, who went quiet, samples of the fleet, forgetting."""

import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping

from cloud.changes import Changes
from cloud.config import Home, Settings
from cloud.retention import QuietWatch, Retention
from cloud.sampling import Sampling
from cloud.store.store import Store
from cloud.tls import client_context
from cloud.webhooks.deliverer import Deliverer
from cloud.webhooks.pacing import Pace
from cloud.webhooks.secret_files import SecretFiles
from cloud.webhooks.sending import Sender
from protocol.errors import UserError


def webhook_authorities(home: Home, settings: Settings) -> ssl.SSLContext:
    """Return what the certificates of webhooks' receivers are checked by; raises UserError."""
    named = settings.webhooks.ca_file
    path = home.storage_path(named) if named else None
    try:
        return client_context(path)
    except OSError as error:
        raise UserError(
            f"[webhooks] ca_file: {path} holds no certificate authority: {error}. Nothing was started."
        ) from None


def beside(
    store: Store, settings: Settings, changes: Changes, secrets: SecretFiles, sender: Sender, *, source: str
) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """Return the steps that are repeated for ever, by name; `source` is the address of this cloud."""
    pace, events = Pace(), settings.events
    deliverer = Deliverer(
        *(store, secrets, sender, changes),
        source=source,
        now=time.time,
        chance=random.SystemRandom().random,
        pace=pace,
    )
    retention = Retention(store, max_rows=events.max_rows, max_age_days=events.max_age_days, give_up_s=pace.give_up_s)
    quiet = QuietWatch(store, changes, after_hours=settings.devices.quiet_after_hours)
    return {
        "webhooks": deliverer.run,
        "retention": retention.step,
        "quiet": quiet.step,
        "sampling": Sampling(store.samples).step,
    }
