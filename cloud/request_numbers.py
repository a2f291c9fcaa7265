"""How many requests were answered, and how long they took: by route template, so that no id is ever a label."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
UNMATCHED: Final = "unmatched"
"""The route of a request that leads to none."""


class RequestNumbers:
    """Counters of the requests of one server; any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """What the counters are read from."""
        what = "Requests that were answered, by the method, the route's template and the status."
        self._answered = Counter("fleetlift_http_requests", what, ["method", "route", "status"], registry=self.registry)
        self._seconds = Histogram(
            "fleetlift_http_request_duration_seconds",
            "How long requests took until their answer began; those that wait on purpose are left out.",
            ["method", "route"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count a request; without `seconds` how long it took says nothing."""
        method = method if method in METHODS else "other"
        self._answered.labels(method, route, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(method, route).observe(seconds)
