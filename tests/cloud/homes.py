"""A real home, opened: keys, metadata, database, blobs, and the HTTP API over them on a free port."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from cloud.api.backend import Backend
from cloud.artifacts import Artifacts
from cloud.cli.initialise import Plan, database_url, make_home, online_key_path
from cloud.config import Home, Settings, load_settings
from cloud.intake import Intake
from cloud.keyring import Keyring, next_seq
from cloud.online_key import OnlineKey
from cloud.pki.authorities import Authorities
from cloud.site import create_site
from cloud.store.store import Store
from cloud.tls import no_authority
from cloud.trust import MetadataRepository
from cloud.webhooks.secret_files import SecretFiles
from protocol.chunks import describe
from protocol.manifest import Blob, Manifest, Requirements
from protocol.phases import Phase
from protocol.up import DeviceState, Hello, JournalPosition
from protocol.values import ComponentState
from tests.support.processes import wait_until

PRODUCT = "thermostat"
MODEL = "raspberrypi4"


@dataclass
class OpenHome:
    """One home, with everything in it opened as the server would."""

    home: Home
    settings: Settings
    store: Store
    repository: MetadataRepository
    artifacts: Artifacts
    intake: Intake
    keyring: Keyring

    @property
    def token(self) -> str:
        return self.home.token_file.read_text().strip()

    def publish(self, version: str, image: bytes | None = None, **facts: Any) -> bytes:
        """Sign, store and publish a firmware, as `release push` does but without the network; return its image."""
        content = image or f"image of {version}".encode()
        role = self.sign(version, content, **facts)
        self.artifacts.receive([content], describe([content])[0].digest, 1 << 30)
        self.intake.publish_role(PRODUCT, role, by="test")
        return content

    def sign(self, version: str, content: bytes, *, component: str = "app", **facts: Any) -> bytes:
        ref = describe([content])[0]
        role = self.repository.metadata(f"{PRODUCT}.json") or b""
        manifest = Manifest(
            product=PRODUCT,
            component=component,
            version=version,
            build=facts.pop("build", 1),
            seq=next_seq(role, PRODUCT, component),
            hardware_models=facts.pop("hardware_models", (MODEL,)),
            blobs=(Blob(encoding="identity", ref=ref),),
            requires=facts.pop("requires", Requirements()),
            **facts,
        )
        return self.keyring.sign_firmware(role, manifest, ref.size_bytes, ref.digest)

    def join(self, device_id: str, *, version: str | None = "1.0.0", session: int = 1, **facts: Any) -> None:
        """Have a device say hello, as if it came over the broker."""
        hello = hello_of(version=version, session=session, **facts)
        answer = self.store.journal.receive_hello(device_id, hello)
        assert answer.refusal is None, answer


def hello_of(*, version: str | None = "1.0.0", session: int = 1, **facts: Any) -> Hello:
    components: tuple[ComponentState, ...] = ()
    if version is not None:
        digest = facts.pop("digest", hashlib.sha256(f"image of {version}".encode()).hexdigest())
        components = (ComponentState(component="app", version=version, build=1, digest=digest),)
    return Hello(
        product=facts.pop("product", PRODUCT),
        hardware_model=facts.pop("hardware_model", MODEL),
        agent_version="0.1.0",
        journal=JournalPosition(journal_id=facts.pop("journal_id", "j1"), next_seq=facts.pop("next_seq", 1)),
        state=DeviceState(session=session, seq=facts.pop("seq", 1), phase=Phase.IDLE, components=components),
        root_version=1,
        **facts,
    )


@contextmanager
def open_home(directory: Path) -> Iterator[OpenHome]:
    """Make a home with the product `thermostat` and open it."""
    home = Home(directory)
    make_home(home, Plan(port=0, broker_port=0, product=PRODUCT, hardware=(MODEL,)))
    settings = load_settings(home.settings_file)
    with Store.open(database_url(home, settings), time.time) as store:
        repository = MetadataRepository(
            home.storage_path(settings.storage.metadata), OnlineKey.load_or_create(online_key_path(home, settings))
        )
        artifacts = Artifacts(home.storage_path(settings.storage.blobs))
        yield OpenHome(
            home, settings, store, repository, artifacts, Intake(store, repository, artifacts), Keyring(home.keys)
        )
        artifacts.close()


@dataclass
class Api:
    """The API of an open home, over HTTP."""

    home: OpenHome
    backend: Backend
    http: httpx.Client

    def __call__(self, method: str, path: str, body: object = None, *, expect: int = 200, **more: Any) -> Any:
        """Send a request and return the answer's JSON; fails unless the status is the expected one."""
        if body is not None:
            more["json"] = body
        answer = self.http.request(method, path, **more)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def refusal(self, method: str, path: str, body: object = None, *, status: int, **more: Any) -> tuple[str, str]:
        """Send a request that must be refused; return the error's code and message."""
        said = self(method, path, body, expect=status, **more)
        assert set(said) == {"error", "message", "help"}, said
        return said["error"], said["message"]


@contextmanager
def serve_api(home: OpenHome, **settings: Any) -> Iterator[Api]:
    """Serve the API of an open home by a real server on a free port."""
    server_settings = home.settings.server.model_copy(update=settings)
    backend = Backend(
        store=home.store,
        repository=home.repository,
        artifacts=home.artifacts,
        intake=home.intake,
        settings=home.settings.model_copy(update={"server": server_settings}),
        base_url="http://api.test",
        broker_url="mqtt://broker.test:1883",
        authorities=Authorities(home.home.ca) if home.home.ca.exists() else None,
        secrets=SecretFiles(home.home.webhooks),
    )
    server = uvicorn.Server(uvicorn.Config(create_site(backend), port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        wait_until(lambda: server.started, what="the API server's start")
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {home.token}"}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1",
            headers=headers,
            trust_env=False,
            timeout=60,
            verify=no_authority(),
        ) as http:
            yield Api(home, backend, http)
    finally:
        server.should_exit = True
        thread.join()
