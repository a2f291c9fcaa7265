"""The fleet in the text format of Prometheus: no label is ever a device's."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from cloud.guard.evidence import Status
from cloud.store.overview import FleetNumbers

_COUNTED: Final[dict[str, str]] = {
    "received": "Messages that devices sent since the server started, by kind.",
    "refused": "Messages of devices, and steps of the server, that were not processed, by kind and reason.",
    "published": "Messages that the broker took, by kind.",
    "streams": "Wants and chunks.",
}


def expose(
    numbers: FleetNumbers,
    online: Mapping[str, tuple[int, int]],
    counters: Mapping[str, Mapping[str, int]],
    webhooks: Mapping[str, bool],
) -> bytes:
    """Return metrics: of the fleet, (online, known) devices by product, counters, webhooks (enabled)."""
    registry = CollectorRegistry()
    devices = Gauge("fleetlift_devices", "Devices that are registered.", ["product"], registry=registry)
    connected = Gauge("fleetlift_devices_online", "Devices that are connected.", ["product"], registry=registry)
    quiet = Gauge("fleetlift_devices_quiet", "Devices that have been away for long.", ["product"], registry=registry)
    for product, (there, known) in online.items():
        devices.labels(product).set(known)
        connected.labels(product).set(there)
        quiet.labels(product).set(numbers.quiet.get(product, 0))
    rollouts = Gauge("fleetlift_rollouts", "Releases that go by a plan, by its status.", ["status"], registry=registry)
    for status in Status:
        rollouts.labels(status.value).set(numbers.rollouts.get(status.value, 0))
    what = "Attempts of devices to take something, by outcome (open: not ended) and reason."
    attempts = Gauge("fleetlift_attempts", what, ["outcome", "reason"], registry=registry)
    for (outcome, reason), count in numbers.attempts.items():
        attempts.labels(outcome, reason).set(count)
    _expose_webhooks(registry, numbers, webhooks)
    for name, values in counters.items():
        gauge = Gauge(f"fleetlift_{name}", _COUNTED.get(name, name), ["kind"], registry=registry)
        for kind, value in values.items():
            gauge.labels(kind).set(value)
    return generate_latest(registry)


def _expose_webhooks(registry: CollectorRegistry, numbers: FleetNumbers, webhooks: Mapping[str, bool]) -> None:
    enabled = Gauge(
        "fleetlift_webhook_enabled", "Whether a webhook is told of anything.", ["webhook"], registry=registry
    )
    what = "Deliveries that wait to be taken (pending), and those that never were (given_up)."
    deliveries = Gauge("fleetlift_webhook_deliveries", what, ["webhook", "state"], registry=registry)
    for name, is_enabled in webhooks.items():
        enabled.labels(name).set(is_enabled)
        deliveries.labels(name, "pending").set(numbers.pending.get(name, 0))
        deliveries.labels(name, "given_up").set(numbers.given_up.get(name, 0))
