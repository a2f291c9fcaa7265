"""The reference of the metrics, from what the server exposes."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from cloud.api.exposition import expose
from cloud.request_numbers import RequestNumbers
from cloud.store.overview import FleetNumbers
from cloud.values import OutboxKind
from docs.generating.markdown import code, page, plain, table

COUNTERS = ("received", "refused", "published", "streams", "waiting")
"""What the server's loops count, by kind."""
OF_THE_FORMAT = frozenset({"le"})
"""Labels of a histogram's buckets, which are of the format."""


def families() -> Iterator[Metric]:
    """Yield every metric that the server exposes, each with a sample."""
    numbers = FleetNumbers(
        rollouts={},
        running={("product", "component", "1.0.0"): 1},
        attempts={("succeeded", ""): 1},
        pending={},
        given_up={},
        quiet={},
    )
    requests = RequestNumbers()
    requests.answered("GET", "/", 200, 0.0)
    text = expose(
        *(numbers, {"product": (1, 1)}),
        {**{name: {"kind": 1} for name in COUNTERS}, "connected": {"control": 1}},
        {"webhook": True},
        outbox=dict.fromkeys(OutboxKind, 0),
        requests=requests,
    ).decode()
    return (it for it in text_string_to_metric_families(text) if not it.name.endswith("_created"))


def metrics() -> str:
    """Return every metric with its type, labels and meaning, under the names by which it is asked for."""
    rows = []
    for family in families():
        labels = sorted({label for sample in family.samples for label in sample.labels} - OF_THE_FORMAT)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append((code(name), family.type, ", ".join(map(code, labels)), plain(family.documentation)))
    return page([table(("metric", "type", "labels", "what it is"), sorted(rows))])
