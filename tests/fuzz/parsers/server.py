"""Targets: the server with its real database: what devices say and what is asked over HTTP.

Every so many inputs the server is put back to where it began, so that what one of them made does not pile up.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from fastapi import FastAPI

from cloud.api.app import create_app
from cloud.api.backend import Backend
from cloud.artifacts import Artifacts
from cloud.changes import Changes
from cloud.cli.initialise import Plan, database_url, make_home, online_key_path
from cloud.config import Home, Settings, load_settings
from cloud.fleet import AttemptFilter, DeviceFilter
from cloud.intake import Intake
from cloud.keyring import Keyring
from cloud.link import KINDS
from cloud.online_key import OnlineKey
from cloud.pki.authorities import Authorities
from cloud.reception import Reception
from cloud.store.store import Store
from cloud.tally import Tally
from cloud.trust import MetadataRepository
from cloud.values import ChannelKey, ReleaseDraft
from protocol.codec import decode, encode
from protocol.errors import IdentityError, MessageError
from protocol.topics import Topics, UpTopic
from protocol.up import Ask, Asked, Want
from tests.cloud.homes import MODEL, PRODUCT, OpenHome, hello_of
from tests.fuzz.child import run_one_of
from tests.fuzz.parsers.mqtt import said
from tests.fuzz.targets import Parse, Target
from tests.protocol.samples import DIGEST_A

INPUTS_PER_HOME: Final = 2000
TOPICS: Final = Topics()
TOKEN_SHA: Final = "c" * 64
Event = MutableMapping[str, Any]


@functools.cache
def template() -> Path:
    """Return a home with a device, two firmwares and a release, made once; it goes with this process."""
    directory = tempfile.mkdtemp(prefix="fleetlift-fuzz-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    root = Home(Path(directory) / "home")
    make_home(root, Plan(plain=True, port=0, broker_port=0, product=PRODUCT, hardware=(MODEL,)))
    with contextlib.ExitStack() as stack:
        home = OpenHome(root, *_opened(root, stack), Keyring(root.keys))
        home.publish("1.0.0")
        home.publish("1.1.0", notes="quieter fan")
        home.join("pi-1")
        home.store.catalog.create_group(PRODUCT, "pilot", rank=None, by="test")
        draft = ReleaseDraft(channel=ChannelKey(PRODUCT, "everyone", "app"), version="1.1.0", release_id="r-1")
        home.store.releases.create(draft, by="test")
        Authorities.create(home.home.ca)
    return Path(directory) / "home"


def _opened(home: Home, stack: contextlib.ExitStack) -> tuple[Settings, Store, MetadataRepository, Artifacts, Intake]:
    settings = load_settings(home.settings_file)
    store = stack.enter_context(Store.open(database_url(home, settings), time.time))
    key = OnlineKey.load_or_create(online_key_path(home, settings))
    repository = MetadataRepository(home.storage_path(settings.storage.metadata), key)
    artifacts = Artifacts(home.storage_path(settings.storage.blobs))
    stack.callback(artifacts.close)
    return settings, store, repository, artifacts, Intake(store, repository, artifacts)


class _Instant(Changes):
    """Nobody waits for a change here."""

    async def wait(self, seen: int, timeout_s: float) -> int:
        del seen, timeout_s
        return self.revision


class Server:
    """The server's parts over a copy of the template; `renew` begins again."""

    def __init__(self, directory: Path) -> None:
        self._home = Home(directory / "home")
        self._stack = contextlib.ExitStack()
        self._changes = _Instant()
        self.app: FastAPI | None = None
        self.token = (template() / "operator" / "token").read_text(encoding="ascii").strip()
        self.renew()

    def renew(self) -> None:
        self.close()
        shutil.rmtree(self._home.root, ignore_errors=True)
        shutil.copytree(template(), self._home.root)
        settings, store, repository, artifacts, intake = _opened(self._home, self._stack)
        self.backend = Backend(
            store=store,
            repository=repository,
            artifacts=artifacts,
            intake=intake,
            settings=settings,
            base_url="http://api.test",
            broker_url="mqtt://broker.test:1883",
            changes=self._changes,
            authorities=Authorities(self._home.ca),
        )
        if self.app is None:
            self.app = create_app(self.backend)
        self.app.state.backend = self.backend  # the same application: FastAPI keeps what it makes of each for good

    def close(self) -> None:
        self._stack.close()


class _Streams:
    def want(self, device_id: str, want: Want) -> None:
        del device_id, want


@contextlib.contextmanager
def reception(directory: Path) -> Iterator[Parse]:
    """What a device says is stored, answered or refused; and whatever it was, the device can be looked at after it."""
    server, loop, inputs = Server(directory), asyncio.new_event_loop(), [0]
    answers: list[str] = []

    async def publish(topic: str, payload: bytes) -> None:
        assert payload
        answers.append(topic.rsplit("/", 1)[1])

    def made() -> Reception:
        return Reception(
            server.backend.store,
            server.backend.repository,
            server.backend.artifacts,
            streams=_Streams(),
            publish=publish,
            repeat=lambda kind, subject: answers.append(f"{kind} {subject.count('/')}"),
            topics=TOPICS,
            changes=server.backend.changes,
            tally=Tally(server.backend.refusals),
            open_joining=True,
        )

    receiver = [made()]

    def parse(content: bytes) -> object:
        inputs[0] += 1
        if inputs[0] % INPUTS_PER_HOME == 0:
            server.renew()
            receiver[0] = made()
        topic, _, payload = content[1:].partition(b"\n")
        meant = TOPICS.parse(topic.decode("utf-8", errors="replace"))
        if not isinstance(meant, UpTopic):
            return None
        message = decode(payload, KINDS[meant.kind])
        answers.clear()
        loop.run_until_complete(receiver[0].receive(meant.device_id, message))
        store = server.backend.store
        for device in store.devices.devices(DeviceFilter()):
            encode(device.components)
        if store.devices.count(DeviceFilter(product=PRODUCT)):
            store.devices.fleet(PRODUCT)
        store.journal.attempts(AttemptFilter())
        store.metrics.channel(ChannelKey(PRODUCT, "everyone", "app"))
        return f"{meant.kind} {','.join(answers)}"

    try:
        yield parse
    finally:
        loop.close()
        server.close()


@contextlib.contextmanager
def api(directory: Path) -> Iterator[Parse]:
    """A request, described in JSON, or noise as the body of one: it has an answer, and never one of the 500s."""
    server, loop, inputs = Server(directory), asyncio.new_event_loop(), [0]

    def parse(content: bytes) -> object:
        inputs[0] += 1
        if inputs[0] % INPUTS_PER_HOME == 0:
            server.renew()
        request = request_of(content, server.token)
        method = request[0]
        assert server.app is not None
        status, answer = loop.run_until_complete(_asked(server.app, request))
        assert status < 500, (status, answer[:500])
        if status >= 400:
            assert set(json.loads(answer)) == {"error", "message", "help"} or status == 503, answer[:300]
            return f"{method[:8]} {status} {json.loads(answer)['error']}"
        return f"{method[:8]} {status}"

    try:
        yield parse
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        server.close()


def request_of(content: bytes, token: str) -> tuple[str, str, bytes, list[tuple[bytes, bytes]], bytes]:
    """Return method, path, query, headers and body of a request as an input describes it."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        fields = {"method": "POST", "path": "/api/v1/groups", "raw": content.decode("latin-1")}
    body = fields.get("body", b"")
    raw = fields.get("raw")
    if isinstance(raw, str):
        body = raw.encode("latin-1", errors="replace")
    elif body != b"":
        body = json.dumps(body).encode()
    headers = [(b"authorization", b"Bearer " + token.encode())] if fields.get("token", True) else []
    headers.append((b"content-type", str(fields.get("type", "application/json")).encode("latin-1", errors="replace")))
    given = fields.get("headers", [])
    for item in given if isinstance(given, list) else []:
        if isinstance(item, list) and len(item) == 2:
            name, value = (str(part).encode("latin-1", errors="replace") for part in item)
            headers.append((name.lower(), value))
    path = unquote(str(fields.get("path", "/")).encode("utf-8", errors="replace").decode())  # as a server hands it on
    query = str(fields.get("query", "")).encode("latin-1", errors="replace")
    method = str(fields.get("method")).encode("ascii", errors="ignore").decode() or "GET"
    return method, path if path.startswith("/") else f"/{path}", query, headers, body


async def _asked(
    app: Callable[..., Awaitable[None]], request: tuple[str, str, bytes, list[tuple[bytes, bytes]], bytes]
) -> tuple[int, bytes]:
    method, path, query, headers, body = request
    parts = [body[at : at + 65_536] for at in range(0, len(body), 65_536)] or [b""]
    status, answer = 0, bytearray()

    async def receive() -> Event:
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(event: Event) -> None:
        nonlocal status
        if event["type"] == "http.response.start":
            status = event["status"]
        else:
            answer.extend(event.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", errors="replace"),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return status, bytes(answer)


def _request(method: str, path: str, body: object = None, **more: object) -> bytes:
    fields: dict[str, object] = {"method": method, "path": f"/api/v1/{path}", **more}
    if body is not None:
        fields["body"] = body
    return json.dumps(fields).encode()


def requests() -> list[bytes]:
    """Return a request for every route."""
    release = {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.0.0"}
    firmware = {"digest": DIGEST_A, "size_bytes": 5, "hardware_models": [MODEL], "build": 1, "seq": 9}
    token = {"token_sha256": TOKEN_SHA, "product": PRODUCT, "groups": ["pilot"], "uses": 3, "lifetime_s": 60}
    device = {"device_id": "pi-2", "product": PRODUCT, "hardware_model": MODEL, "groups": ["pilot"]}
    pages = (
        *("products", f"products/{PRODUCT}", "groups", f"groups/{PRODUCT}/pilot", "firmware", "releases/r-1"),
        *(f"firmware/{PRODUCT}/app/1.0.0", "releases", "devices", "devices/pi-1", "devices/pi-1/history"),
        *("devices/pi-1/decisions", "devices/pi-1/certificates", "attempts", "audit", "system", "metrics"),
        *("metadata/timestamp.json", "metadata/1.root.json", f"metadata/{PRODUCT}.json", f"blobs/{DIGEST_A}"),
        *("enrolment/trust", "enrolment-tokens", "authorities", "releases/r-1/progress", "otas/ota-1", "nothing"),
    )
    queries = (
        ("devices", f"product={PRODUCT}&group=pilot&online=true&version=1.0.0&pending=false&after=a&limit=5"),
        ("attempts", f"device=pi-1&product={PRODUCT}&source=r-1&open_only=true&outcome=failed&limit=3"),
        ("audit", "after=0&subject=x&limit=2"),
        ("audit", f"after={2**64}"),
        ("releases", f"product={PRODUCT}&group=everyone&component=app&enabled=true"),
        ("releases/r-1/progress", "seen=1&wait=0.5"),
        ("otas/ota-1", "seen=1&wait=0.5"),
        ("firmware", f"product={PRODUCT}&component=app"),
    )
    return [
        *(_request("GET", page) for page in pages),
        *(_request("GET", page, query=query) for page, query in queries),
        _request("GET", "system", token=False),
        _request("POST", "products", {"product": "pump", "hardware_models": ["x"], "targets": "{}", "role": "{}"}),
        _request("PATCH", f"products/{PRODUCT}", {"ota_enabled": False}),
        _request("POST", f"products/{PRODUCT}/role", {"signed": {}, "signatures": []}),
        _request("POST", "groups", {"product": PRODUCT, "group": "beta", "rank": 1}),
        _request("PATCH", f"groups/{PRODUCT}/pilot", {"rank": 2}),
        _request("POST", f"groups/{PRODUCT}/pilot/members", {"add": ["pi-1"], "remove": ["pi-2"]}),
        _request("POST", "releases", {**release, "percentage": 50, "target_range": "1.x", "description": "x"}),
        _request("POST", "releases/forecast", {**release, "version": "2.0.0", "firmware": firmware}),
        _request("PATCH", "releases/r-1", {"percentage": 60, "enabled": False, "urgency": "immediate"}),
        _request("POST", "releases/r-1/rollback", {"description": "back"}),
        _request("POST", "releases/r-1/promote", {"group": "pilot", "percentage": 10, "mandatory": True}),
        _request("POST", "devices", device),
        _request("PUT", "devices/pi-1/lock/app", {"version": "1.0.0"}),
        _request("DELETE", "devices/pi-1/lock/app"),
        _request("POST", "devices/pi-1/ota", {"component": "app", "version": "1.1.0", "forced": True}),
        _request("DELETE", "otas/ota-1"),
        _request("POST", "devices/pi-1/revoke"),
        _request("PUT", f"blobs/{DIGEST_A}", raw="an image", type="application/octet-stream"),
        _request("POST", "enrolment-tokens", token),
        _request("DELETE", "enrolment-tokens/x"),
        _request(
            "POST", "device-batches", {"product": PRODUCT, "devices": [{"device_id": "a", "hardware_model": "b"}]}
        ),
        _request("POST", "authorities/devices/rotate"),
        _request("POST", "enrolment", {"token": "A" * 22, "device_id": "a", "hardware_model": MODEL, "csr": "x"}),
        _request("POST", "enrolment/renewal", {"certificate": "x", "csr": "x", "signature": "x"}),
        _request("GET", "system", headers=[["content-length", "5"], ["x-y", "z"], ["authorization", "Basic x"]]),
        _request("PUT", f"blobs/{DIGEST_A}", raw="x", headers=[["content-length", "9" * 5000]]),
        _request("POST", "groups", {"product": PRODUCT, "group": "b"}, headers=[["content-length", "9" * 5000]]),
        _request("POST", "products", {"product": "\ud800", "hardware_models": ["x"], "targets": "\ud800", "role": ""}),
        _request("DELETE", f"groups/{PRODUCT}/pilot"),
    ]


def heard_by_the_server() -> list[bytes]:
    """Return what devices say, of the device that is there."""
    hello = b"-" + TOPICS.up("pi-1", "hello").encode() + b"\n" + encode(hello_of(session=2))
    bundle = b"-" + TOPICS.up("pi-1", "ask").encode() + b"\n" + encode(Ask(request=1, what=Asked.BUNDLE))
    report = [
        each.replace(b'"journal_id":"j1"', b'"journal_id":"j1"').replace(b'"seq":12', b'"seq":1') for each in said()
    ]
    return [hello, bundle, *said(), *(each.replace(b'"seq":13', b'"seq":2') for each in report)]


WORDS: Final = (
    b"pi-1", b"r-1", b"pilot", b"everyone", b"app", b"thermostat", b"GET", b"PUT", b"PATCH", b"DELETE", b"HEAD",
    b"/api/v1/", b"..", b"%2e%2e%2f", b"%00", b"%ff", b"?", b"&", b"limit=", b"after=", b"seen=99999999999999999999",
    b"after=99999999999999999999", b"wait=nan", b"limit=1000", b"content-length", b"9" * 5000, b"transfer-encoding",
)  # fmt: skip

TARGETS: Final[tuple[Target, ...]] = (
    Target(
        name="server.message",
        make=reception,
        seeds=heard_by_the_server,
        shape="json",
        expected=(MessageError, IdentityError),
        covers=("cloud.reception.Reception", "cloud.store.journal.Journal"),
        heavy=True,
    ),
    Target(
        name="api",
        make=api,
        seeds=requests,
        shape="json",
        covers=("cloud.api.app.create_app",),
        words=WORDS,
        heavy=True,
    ),
)

if __name__ == "__main__":
    sys.exit(run_one_of(TARGETS))
