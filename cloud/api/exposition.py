"""The fleet in the text format of Prometheus: no label is ever a device's."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud.guard.evidence import Status
from cloud.request_numbers import RequestNumbers
from cloud.store.overview import FleetNumbers
from cloud.values import OutboxKind
from protocol.values import MAX_COMPONENTS

MAX_VERSIONS: Final = 20
"""How many versions of a component have a series of their own; those that fewest devices run are one more."""
OTHERS: Final = "others"
_RISING: Final[Mapping[str, str]] = {
    "received": "Messages that devices sent since the server started, by kind.",
    "refused": "Messages of devices, and steps of the server, that were not processed, by kind and reason.",
    "published": "Messages that the broker took, by kind.",
    "streams": "Wants of devices, and what was sent of the chunks that they asked for.",
}
_STANDING: Final[Mapping[str, str]] = {
    "connected": "Whether the broker is reached now, by connection: control, and streams (chunks of images).",
    "waiting": "What waits to be handled: messages of devices, and chunks that were asked for.",
}


def expose(
    numbers: FleetNumbers,
    online: Mapping[str, tuple[int, int]],
    counters: Mapping[str, Mapping[str, int]],
    webhooks: Mapping[str, bool],
    *,
    outbox: Mapping[OutboxKind, int],
    requests: RequestNumbers,
) -> bytes:
    """Return metrics: of the fleet, (online, known) devices by product, counters, webhooks (enabled), and the rest.

    `counters` are by what they count and its kind; those of `outbox` are what is still to be told.
    """
    registry = CollectorRegistry()
    devices = Gauge("fleetlift_devices", "Devices that are registered.", ["product"], registry=registry)
    connected = Gauge("fleetlift_devices_online", "Devices that are connected.", ["product"], registry=registry)
    quiet = Gauge("fleetlift_devices_quiet", "Devices that have been away for long.", ["product"], registry=registry)
    for product, (there, known) in online.items():
        devices.labels(product).set(known)
        connected.labels(product).set(there)
        quiet.labels(product).set(numbers.quiet.get(product, 0))
    _expose_versions(registry, numbers)
    rollouts = Gauge("fleetlift_rollouts", "Releases that go by a plan, by its status.", ["status"], registry=registry)
    for status in Status:
        rollouts.labels(status.value).set(numbers.rollouts.get(status.value, 0))
    what = "Attempts of devices to take something, by outcome (open: not ended) and reason."
    attempts = Gauge("fleetlift_attempts", what, ["outcome", "reason"], registry=registry)
    for (outcome, reason), count in numbers.attempts.items():
        attempts.labels(outcome, reason).set(count)
    _expose_webhooks(registry, numbers, webhooks)
    what = "Messages that are still to be told to devices and the broker, by kind: 0 where all is told."
    depth = Gauge("fleetlift_outbox", what, ["kind"], registry=registry)
    for kind, count in outbox.items():
        depth.labels(kind.value).set(count)
    _expose_loops(registry, counters)
    return generate_latest(registry) + generate_latest(requests.registry)


def _expose_versions(registry: CollectorRegistry, numbers: FleetNumbers) -> None:
    what = f"Devices that run a version of a component; beyond {MAX_VERSIONS} versions the rarest are '{OTHERS}'."
    running = Gauge("fleetlift_devices_running", what, ["product", "component", "version"], registry=registry)
    components: dict[tuple[str, str], dict[str, int]] = {}
    for (product, component, version), count in numbers.running.items():
        components.setdefault((product, component), {})[version] = count
    fleets = sorted(components.items(), key=lambda it: (it[0][0], -sum(it[1].values()), it[0][1]))
    for product, of_product in itertools.groupby(fleets, key=lambda it: it[0][0]):
        for (_, component), versions in itertools.islice(of_product, MAX_COMPONENTS):
            common = sorted(versions, key=lambda it: (-versions[it], it))
            for version in common[:MAX_VERSIONS]:
                running.labels(product, component, version).set(versions[version])
            if rest := common[MAX_VERSIONS:]:
                running.labels(product, component, OTHERS).set(sum(versions[it] for it in rest))


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


def _expose_loops(registry: CollectorRegistry, counters: Mapping[str, Mapping[str, int]]) -> None:
    connected = Gauge("fleetlift_broker_connected", _STANDING["connected"], ["connection"], registry=registry)
    for connection, value in counters.get("connected", {}).items():
        connected.labels(connection).set(value)
    waiting = Gauge("fleetlift_waiting", _STANDING["waiting"], ["kind"], registry=registry)
    for kind, value in counters.get("waiting", {}).items():
        waiting.labels(kind).set(value)
    registry.register(_Rising(counters))


class _Rising(Collector):
    """What the server's loops counted since it started."""

    def __init__(self, counters: Mapping[str, Mapping[str, int]]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        for name, what in _RISING.items():
            family = CounterMetricFamily(f"fleetlift_{name}", what, labels=["kind"])
            for kind, value in self._counters.get(name, {}).items():
                family.add_metric([kind], value)
            yield family
