"""Traces of a running server, as a collector is sent them; and a server without a broker, as a supervisor sees it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan

from tests.cloud.cli.offices import Office
from tests.support.processes import wait_until
from tests.support.receivers import Receiver, receiving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Collector:
    """A collector for OTLP over HTTP, in this process."""

    receiver: Receiver

    def spans(self) -> list[SentSpan]:
        found = []
        for request in list(self.receiver.all):
            assert request.path == "/v1/traces"
            sent = ExportTraceServiceRequest.FromString(request.body)
            for resource in sent.resource_spans:
                names = {it.key: it.value.string_value for it in resource.resource.attributes}
                assert names["service.name"] == "fleetlift"
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found

    def named(self, name: str) -> list[SentSpan]:
        return [span for span in self.spans() if span.name == name]


def attributes(span: SentSpan) -> dict[str, object]:
    return {it.key: it.value.string_value or it.value.int_value for it in span.attributes}


def set_tracing(office: Office, lines: str) -> None:
    with (office.home / "cloud" / "fleetlift.toml").open("a") as settings:
        settings.write(f"\n[tracing]\n{lines}\n")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with receiving() as receiver:
        yield Collector(receiver)


def test_a_collector_is_sent_requests_changes_messages_and_publishes(closed: Office, collector: Collector) -> None:
    set_tracing(closed, f'endpoint = "http://127.0.0.1:{collector.receiver.port}"')
    server = closed.serve()
    with closed.device("trace-1"):
        token = (closed.home / "operator" / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r-7"}
        body = {"product": "thermostat", "group": "traced"}
        url = f"http://127.0.0.1:{closed.port}/api/v1/groups"
        assert httpx.post(url, json=body, headers=headers, trust_env=False).status_code == 201
        wait_until(lambda: collector.named("POST /api/v1/groups"), 30, "the request's span")
    assert server.terminate() == 0
    (request,) = collector.named("POST /api/v1/groups")
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    said = attributes(request)
    assert said["http.route"] == "/api/v1/groups"
    assert said["http.response.status_code"] == 201
    assert said["fleetlift.request_id"] == "r-7"
    below = [it for it in collector.named("store change") if it.parent_span_id == request.span_id]
    assert any("group.created" in str(attributes(it).get("fleetlift.changes")) for it in below)
    hellos = collector.named("receive hello")
    assert [attributes(it)["fleetlift.device_id"] for it in hellos] == ["trace-1"]
    answers = [it for it in collector.named("publish") if it.parent_span_id == hellos[0].span_id]
    assert any(str(attributes(it)["messaging.destination.name"]).endswith("/desired") for it in answers)
    everything = b"".join(it.body for it in collector.receiver.all)
    assert token.encode() not in everything
    assert "Traceback" not in server.log()


def test_a_collector_that_is_away_keeps_nobody_waiting(closed: Office) -> None:
    set_tracing(closed, 'endpoint = "http://127.0.0.1:1/v1/traces"')
    server = closed.serve()
    assert len(closed.json("device", "list")) == 0
    assert server.terminate(timeout_s=20) == 0
    assert "Traceback" not in server.log()


def test_without_the_extra_a_sentence_says_what_to_install(closed: Office) -> None:
    set_tracing(closed, 'endpoint = "http://127.0.0.1:4318"')
    with mock.patch.dict(sys.modules, {"opentelemetry": None}):
        sys.modules.pop("cloud.tracing", None)
        said = closed.call("serve", expect=2).err
    assert "pip install 'fleetlift[cloud,tracing]'" in said
    assert "Nothing was started" in said


def test_without_the_settings_nothing_of_it_is_imported(closed: Office) -> None:
    program = "import sys, cloud.cli.serve; print([it for it in sys.modules if it.startswith('opentelemetry.sdk')])"
    done = closed.processes.start(sys.executable, "-c", program, name="imports")
    assert done.wait() == 0
    assert done.log().strip() == "[]"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('endpoint = "collector:4318"', "the key 'tracing.endpoint': is an address that starts with http"),
        ('endpoint = "http://x"\nsampled_percent = 101', "the key 'tracing.sampled_percent'"),
        ('endpoint = "http://x"\nca_file = "nowhere.pem"', "nowhere.pem. Nothing was started"),
    ],
)
def test_settings_that_cannot_be_are_refused(closed: Office, lines: str, said: str) -> None:
    set_tracing(closed, lines)
    assert said in closed.call("serve", expect=2).err


def test_without_a_broker_the_server_is_alive_and_not_ready(closed: Office) -> None:
    server = closed.start("serve", "--broker", "mqtt://127.0.0.1:1", name="serve")
    server.wait_for_line("serves operators at")
    site = f"http://127.0.0.1:{closed.port}"
    wait_until(lambda: _answers(site), what="the server's answer")
    assert httpx.get(f"{site}/livez", trust_env=False).json() == {"status": "alive"}
    ready = httpx.get(f"{site}/readyz", trust_env=False)
    assert (ready.status_code, ready.json()) == (503, {"status": "the broker is not reached"})
    token = (closed.home / "operator" / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    metrics = httpx.get(f"{site}/api/v1/metrics", headers=headers, trust_env=False).text
    assert 'fleetlift_broker_connected{connection="control"} 0.0' in metrics
    assert 'fleetlift_broker_connected{connection="streams"} 0.0' in metrics
    assert server.terminate() == 0


def _answers(site: str) -> bool:
    try:
        return httpx.get(f"{site}/livez", trust_env=False).is_success
    except httpx.TransportError:
        return False
