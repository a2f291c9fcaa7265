"""What is seen of requests and of the whole server: lines, numbers by route, health; and nothing that is secret."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from cloud.store.store import Store
from docs.generating.metrics import families
from tests.cloud.homes import PRODUCT, Api
from tests.support.postgres import Cluster, running_cluster
from tests.support.processes import wait_until

LINES = "cloud.api.observing"


def exposed(api: Api) -> dict[str, Metric]:
    text = api.http.get("/metrics").text
    return {it.name: it for it in text_string_to_metric_families(text)}


def values(metric: Metric, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The samples that have some labels, by the others."""
    return {
        tuple(sorted(it.labels.items() - labels.items())): it.value
        for it in metric.samples
        if labels.items() <= it.labels.items() and not it.name.endswith("_created")
    }


def line_of(caplog: pytest.LogCaptureFixture, method: str, route: str) -> logging.LogRecord:
    """The line about a request; it is written after the answer has left."""

    def found() -> list[logging.LogRecord]:
        return [it for it in caplog.records if it.name == LINES and (it.method, it.route) == (method, route)]  # type: ignore[attr-defined]

    wait_until(found, what=f"a line about {method} {route}")
    (line,) = found()
    return line


def test_a_request_that_changes_something_is_a_line_with_who_and_how_it_ended(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.home.join("pi-1")
    api("POST", "/groups", {"product": PRODUCT, "group": "secret-garden"}, expect=201)
    line = line_of(caplog, "POST", "/api/v1/groups")
    assert line.levelno == logging.INFO
    said = line.__dict__
    assert (said["status"], said["actor"]) == (201, "operator")
    assert 0 < said["duration_ms"] < 60_000
    assert "secret-garden" not in str(said)
    assert api.home.token not in str(said)


def test_a_line_names_the_device_that_the_path_names_and_no_query(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    api.home.join("pi-1")
    api("POST", "/devices/pi-1/revoke?note=hush", {"reason": "hush"})
    line = line_of(caplog, "POST", "/api/v1/devices/{device_id}/revoke")
    assert line.__dict__["device_id"] == "pi-1"
    assert "hush" not in str(line.__dict__)


def test_who_only_looks_and_who_is_not_let_in_fill_no_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api("GET", "/me")
    assert line_of(caplog, "GET", "/api/v1/me").levelno == logging.DEBUG
    with httpx.Client(base_url=api.http.base_url, trust_env=False) as stranger:
        assert stranger.post("/groups", json={}).status_code == 401
    assert line_of(caplog, "POST", "/api/v1/groups").levelno == logging.DEBUG


def test_a_request_of_somebody_known_that_is_refused_is_a_line_too(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    api("POST", "/groups", {"product": PRODUCT, "group": "no id"}, expect=422)
    line = line_of(caplog, "POST", "/api/v1/groups")
    assert (line.levelno, line.__dict__["status"], line.__dict__["actor"]) == (logging.INFO, 422, "operator")


def test_a_decision_is_a_line_with_the_release_and_its_label(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    api.home.publish("1.1.0")
    channel = {"product": PRODUCT, "group": "everyone", "component": "app"}
    release = api("POST", "/releases", channel | {"version": "1.1.0"}, expect=201)["release"]
    (line,) = [it for it in caplog.records if it.getMessage().startswith("release.created")]
    said = line.__dict__
    assert (said["release_id"], said["label"], said["actor"]) == (release["release_id"], "v1", "operator")
    caplog.clear()
    api("POST", "/releases", channel | {"version": "7.7.7"}, expect=404)
    assert [it for it in caplog.records if "release.created" in it.getMessage()] == []


def test_requests_are_counted_by_template_and_never_by_what_stood_in_the_path(api: Api) -> None:
    for number in range(3):
        api.home.join(f"metric-dev-{number}")
        api("GET", f"/devices/metric-dev-{number}")
        api("GET", f"/nowhere/metric-dev-{number}", expect=404)
    site = str(api.http.base_url).removesuffix("/api/v1/")
    for path in ("/devices/metric-dev-0", "/metric-dev-nowhere", "/login"):
        api.http.get(f"{site}{path}")
    found = exposed(api)
    requests = found["fleetlift_http_requests"]
    assert values(requests, method="GET", status="200")[("route", "/api/v1/devices/{device_id}"),] == 3
    assert values(requests, method="GET", status="404")[("route", "unmatched"),] == 4
    assert values(requests, method="GET", status="200")[("route", "/login"),] == 1
    assert values(requests, status="303")[("method", "GET"), ("route", "/devices/{device_id}")] == 1
    seconds = values(found["fleetlift_http_request_duration_seconds"], route="/api/v1/devices/{device_id}", le="+Inf")
    assert seconds == {(("method", "GET"),): 3}
    assert "metric-dev" not in api.http.get("/metrics").text
    assert 'product="thermostat"' in api.http.get("/metrics").text


def test_a_request_that_waits_on_purpose_says_nothing_about_speed(api: Api) -> None:
    api.home.publish("1.1.0")
    channel = {"product": PRODUCT, "group": "everyone", "component": "app"}
    release = api("POST", "/releases", channel | {"version": "1.1.0"}, expect=201)["release"]["release_id"]
    route = "/api/v1/releases/{release_id}"
    api("GET", f"/releases/{release}", params={"wait": 0.01, "after": 10**6})
    found = exposed(api)
    assert values(found["fleetlift_http_requests"], method="GET", route=route) == {(("status", "200"),): 1}
    assert values(found["fleetlift_http_request_duration_seconds"], method="GET", route=route) == {}


def test_any_method_that_is_none_is_one_more(api: Api) -> None:
    for method in ("BREW", "STEEP"):
        api.http.request(method, "/me")
    methods = {it.labels["method"] for it in exposed(api)["fleetlift_http_requests"].samples}
    assert methods <= {"GET", "other"}


def test_the_fleet_is_told_by_version_and_what_is_still_to_be_told_by_kind(api: Api) -> None:
    api.home.join("pi-1")
    for number in range(25):
        api.home.join(f"pi-x{number}", version=f"2.0.{number}")
    api.home.join("pi-2")
    running = values(exposed(api)["fleetlift_devices_running"], product=PRODUCT, component="app")
    assert running[("version", "1.0.0"),] == 2
    assert len(running) == 21
    assert running[("version", "others"),] == 6
    before = values(exposed(api)["fleetlift_outbox"])[("kind", "notice"),]
    api.home.publish("1.1.0")
    channel = {"product": PRODUCT, "group": "everyone", "component": "app"}
    api("POST", "/releases", channel | {"version": "1.1.0"}, expect=201)
    assert values(exposed(api)["fleetlift_outbox"])[("kind", "notice"),] == before + 1


def test_the_reference_has_every_metric_and_no_other(api: Api) -> None:
    def known(names: Iterator[Metric]) -> set[tuple[str, str, str]]:
        return {(it.name, it.type, it.documentation) for it in names if not it.name.endswith("_created")}

    assert known(iter(exposed(api).values())) == known(families())


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Somebody else has the database, as a backup by hand that hangs would."""
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    other.close()


def test_a_database_that_somebody_else_locks_is_not_ready_and_the_process_is_alive(api: Api) -> None:
    site = str(api.http.base_url).removesuffix("/api/v1/")
    assert api.http.get(f"{site}/readyz").json() == {"status": "ready"}
    with locked(api.home.home.cloud / "fleetlift.db"):
        assert api.http.get(f"{site}/readyz").json() == {"status": "the database is locked by another program"}
        waiting = [
            threading.Thread(target=api.http.post, args=("/sets",), kwargs={"json": {"name": f"set-{number}"}})
            for number in range(3)
        ]
        for thread in waiting:
            thread.start()
        time.sleep(1.2)  # a change of our own waits for longer than a probe does
        answer = api.http.get(f"{site}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "the database is locked by another program"})
        assert api.http.get(f"{site}/livez").json() == {"status": "alive"}
    for thread in waiting:
        thread.join()
    assert api.http.get(f"{site}/readyz").status_code == 200
    assert api.http.get(f"{site}/readyz").json() == {"status": "ready"}


@pytest.fixture
def own_postgresql() -> Iterator[Cluster]:
    """A cluster that the test may stop."""
    with running_cluster() as cluster:
        yield cluster


@pytest.mark.postgresql
def test_a_postgresql_that_is_away_is_not_ready_until_it_is_back(own_postgresql: Cluster) -> None:
    with Store.open(own_postgresql.url(own_postgresql.create()), time.time) as store:
        assert store.why_not_answering() == ""
        own_postgresql.stop()
        assert store.why_not_answering() == "the database does not answer"
        own_postgresql.start()
        assert store.why_not_answering() == ""
