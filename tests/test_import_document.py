"""docs/howto/import.md: its programs read what hawkBit and Mender answer, and what they write is imported."""

import base64
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cloud.cli.fleet_files import read_fleet

DOCUMENT = (Path(__file__).parents[1] / "docs" / "howto" / "import.md").read_text(encoding="utf-8")
PROGRAMS: dict[str, str] = dict(re.findall(r"<!-- program: (\S+) -->\n```python\n(.*?)```", DOCUMENT, re.DOTALL))
TARGETS = [f"Kiosk_{number}" for number in range(3)]
OS = {"id": 18, "name": "Base", "version": "2.1", "type": "os", "typeName": "OS", "vendor": "any", "deleted": False}
APP = {"id": 19, "name": "Kiosk", "version": "v1.4.0-rc.1", "type": "application", "typeName": "Application"}
ANSWERS: dict[str, Any] = {
    **{f"/rest/v1/targets/{name}/attributes": {"site": "berlin", "odd key": "x"} for name in TARGETS},
    **{f"/rest/v1/targets/{name}/tags": [{"id": 1, "name": "Pilot group", "colour": "#fff"}] for name in TARGETS},
    **{
        f"/rest/v1/targets/{name}/installedDS": {"name": "Set", "version": "7", "modules": [OS, APP]}
        for name in TARGETS
    },
    "/rest/v1/targets/Kiosk_2/installedDS": None,
}


class HawkBit(BaseHTTPRequestHandler):
    """Answers as the Management API does: pages of targets, and what belongs to one."""

    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers["Authorization"])
        path, _, query = self.path.partition("?")
        answer = ANSWERS.get(path)
        if path == "/rest/v1/targets":
            offset = int(dict(pair.split("=") for pair in query.split("&"))["offset"])
            page = [{"controllerId": name, "updateStatus": "in_sync"} for name in TARGETS[offset : offset + 2]]
            answer = {"content": page, "total": len(TARGETS), "size": len(page)}
        body = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(204 if answer is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hawkbit() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), HawkBit) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/rest/v1"
        server.shutdown()
        thread.join()


def run(directory: Path, name: str, *arguments: str, given: str = "") -> Path:
    """Run a program of the document as it stands; return the file of what it wrote."""
    (directory / name).write_text(PROGRAMS[name])
    command = [sys.executable, "-W", "error", name, *arguments]
    done = subprocess.run(command, cwd=directory, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (directory / "fleet.jsonl").write_text(done.stdout)
    return directory / "fleet.jsonl"


def test_what_hawkbit_answers_becomes_a_fleet(hawkbit: str, tmp_path: Path) -> None:
    read = read_fleet(run(tmp_path, "hawkbit.py", hawkbit, given="admin:secret\n"), "kiosk")
    assert read.wrong == ()
    first, _, last = read.devices
    assert first["device_id"] == "kiosk-0"
    assert first["groups"] == ["pilot-group"]
    assert first["attributes"] == {"site": "berlin", "odd_key": "x", "controller_id": "Kiosk_0"}
    assert {name: it["version"] for name, it in first["installed"].items()} == {"os": "2.1.0", "app": "1.4.0-rc.1"}
    assert last["installed"] == {}
    assert set(HawkBit.asked) == {"Basic " + base64.b64encode(b"admin:secret").decode()}


def attribute(name: str, value: object, scope: str = "inventory") -> dict[str, object]:
    return {"name": name, "value": value, "scope": scope}


def test_menders_inventory_becomes_a_fleet(tmp_path: Path) -> None:
    told = [
        attribute("device_type", ["raspberrypi4"]),
        attribute("artifact_name", "release-2.1"),
        attribute("kiosk.version", "1.4.0"),
        attribute("serial_number", "SN 0042"),
        attribute("mem_total_kB", 927424),
        attribute("group", "berlin", "system"),
        attribute("status", "accepted", "identity"),
    ]
    page = [{"id": "6e8c1f4a-0000-4000-8000-000000000001", "attributes": told, "updated_ts": "2026-01-01T00:00:00Z"}]
    (tmp_path / "page-1.json").write_text(json.dumps(page))
    (tmp_path / "page-2.json").write_text(json.dumps([{**page[0], "id": "another", "attributes": told[3:4]}]))
    read = read_fleet(run(tmp_path, "mender.py", "page-1.json", "page-2.json"), "kiosk")
    assert read.wrong == ()
    first, second = read.devices
    assert first["device_id"] == "6e8c1f4a-0000-4000-8000-000000000001"
    assert (first["hardware_model"], first["groups"]) == ("raspberrypi4", ["berlin"])
    assert first["attributes"] == {"device_type": "raspberrypi4", "serial_number": "SN 0042"}
    assert {name: it["version"] for name, it in first["installed"].items()} == {"os": "2.1.0", "kiosk": "1.4.0"}
    assert second["installed"] == {}
    named = read_fleet(run(tmp_path, "mender.py", "--name", "serial_number", "page-1.json"), "kiosk")
    assert named.devices[0]["device_id"] == "sn-0042"
