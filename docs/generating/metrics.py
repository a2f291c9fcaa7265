"""The reference of the metrics, from what the server exposes."""

from prometheus_client.parser import text_string_to_metric_families

from cloud.api.exposition import expose
from cloud.store.overview import FleetNumbers
from docs.generating.markdown import code, page, plain, table

COUNTERS = ("received", "refused", "published", "streams")
"""What the server's loops count, by kind."""


def metrics() -> str:
    """Return every metric with its labels and meaning."""
    numbers = FleetNumbers(rollouts={}, attempts={("succeeded", ""): 1}, pending={}, given_up={}, quiet={})
    counters = {name: {"kind": 1} for name in COUNTERS}
    text = expose(numbers, {"product": (1, 1)}, counters, {"webhook": True}).decode()
    rows = []
    for family in text_string_to_metric_families(text):
        labels = sorted({label for sample in family.samples for label in sample.labels})
        rows.append((code(family.name), ", ".join(map(code, labels)), plain(family.documentation)))
    return page([table(("metric", "labels", "what it is"), sorted(rows))])
