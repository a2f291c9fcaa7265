"""A small repository over HTTP, and the client's entry point as a process: what the public suite has of a client."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # exported without saying so

from tests.support.repository import NOW_S, Repository

ENTRY_POINT = Path(__file__).parents[2] / "conformance" / "tuf-client"


class Served:
    """`repository` and its `targets`, by path, over HTTP; `asked` is what was asked for."""

    def __init__(self) -> None:
        self.repository = Repository("thermostat")
        self.targets: dict[str, bytes] = {}
        self.asked: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = unquote(self.path)
                served.asked.append(path)
                data = served.find(path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def find(self, path: str) -> bytes | None:
        kind, _, name = path.lstrip("/").partition("/")
        return self.repository.files.get(name) if kind == "metadata" else self.targets.get(name)

    def add_target(self, path: str, content: bytes, role: str = "targets") -> None:
        """Sign a target and serve it, its digest before its name; publish afterwards."""
        target = TargetFile.from_data(path, content, ["sha256"])
        payload = self.repository.targets if role == "targets" else self.repository.roles[role]
        payload.targets[path] = target
        directory, slash, name = path.rpartition("/")
        self.targets[f"{directory}{slash}{target.hashes['sha256']}.{name}"] = content


class Client:
    """The client in its own place: directories, a working directory and a TMPDIR that must stay empty."""

    def __init__(self, place: Path, served: Served) -> None:
        self.metadata = place / "metadata"
        self.downloads = place / "targets"
        self.elsewhere = place / "elsewhere"
        for directory in (self.metadata, self.downloads, self.elsewhere):
            directory.mkdir()
        self.root = place / "given-root.json"
        self.root.write_bytes(served.repository.bootstrap)
        self._served = served
        self.now_s = NOW_S
        self.said = ""

    def run(self, *arguments: str) -> int:
        """Run a command line, and return its exit code; `said` is what it wrote to standard error."""
        environment = {**os.environ, "FLEETLIFT_PYTHON": sys.executable, "TMPDIR": str(self.elsewhere)}
        command = [str(ENTRY_POINT), "--now", str(self.now_s), "--metadata-dir", str(self.metadata), *arguments]
        done = subprocess.run(
            command, cwd=self.elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        self.said = done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert list(self.elsewhere.iterdir()) == []
        assert not list(self.metadata.glob(".broker-*"))
        return done.returncode

    def init(self) -> int:
        return self.run("init", str(self.root))

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self._served.url}/metadata", "refresh")

    def download(self, path: str) -> int:
        return self.run(
            *("--metadata-url", f"{self._served.url}/metadata/", "--target-name", path),
            *("--target-base-url", f"{self._served.url}/targets/", "--target-dir", str(self.downloads), "download"),
        )

    def downloaded(self) -> list[bytes]:
        return [path.read_bytes() for path in self.downloads.iterdir()]


@pytest.fixture
def served() -> Iterator[Served]:
    repository = Served()
    yield repository
    repository.close()


@pytest.fixture
def client(tmp_path: Path, served: Served) -> Client:
    made = Client(tmp_path, served)
    assert made.init() == 0
    return made
