"""One self-hosted endpoint, and nobody else: what the processes connect to, and what the endpoint knows (S3)."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import require_mosquitto
from tests.support.fleet import Fleet, open_fleet
from tests.support.images import Images

LISTENING_IN = '''\
"""Writes down every address that a Python process looks up, connects or listens to."""
import json, os, sys

EVENTS = {"socket.connect": 1, "socket.sendto": 1, "socket.bind": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
log = os.open(os.environ["ADDRESSES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def listen(event, arguments):
    if event in EVENTS:
        address = arguments[EVENTS[event]]
        address = address[:2] if isinstance(address, tuple) else [address]
        os.write(log, (json.dumps([event, *map(str, address)]) + "\\n").encode())

sys.addaudithook(listen)
'''
OUTWARDS = ("socket.bind", "", "0")
"""Where a connection comes from: any port. It says nothing of where it goes."""


def test_nobody_but_the_endpoint_is_spoken_to(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    require_mosquitto()
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(LISTENING_IN)
    log = tmp_path / "addresses"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))
    monkeypatch.setenv("ADDRESSES", str(log))
    image = images.thermostat("20.0.0")
    with contextlib.closing(open_fleet(tmp_path, images)) as fleet:
        device = fleet.join("lonely-1", image=images.thermostat("1.0.0"))
        group = fleet.group("lonely", device)
        said = fleet.office.run("release", "push", image.path, "--group", group, "--immediate", "--yes", "--wait")
        assert said.code == 0, said
        assert device.runs(image)
        expected = [("socket.connect", "127.0.0.1", str(port)) for port in (fleet.office.port, fleet.broker.port)]
    events = {tuple(json.loads(line)) for line in log.read_text().splitlines()}
    assert events.issuperset(expected), "nothing was listened in on"
    for event, host, *port in events - {OUTWARDS}:
        if host.startswith("/"):
            assert host.startswith((str(tmp_path), "/proc/self/fd/")), f"{event}: somebody else's socket: {host}"
        else:
            assert host in ("127.0.0.1", "::1"), f"{event} {host} {port}"


def steady(found: Any) -> Any:
    """What is left without the numbers that grow while one looks."""
    if isinstance(found, list):
        return [steady(item) for item in found]
    if isinstance(found, dict):
        return {key: steady(item) for key, item in found.items() if key not in ("duration_s", "last_seen_at_ms")}
    return found


def test_every_operator_and_every_tool_sees_the_same_truth(fleet: Fleet) -> None:
    image = fleet.images.thermostat("20.1.0")
    device = fleet.join("truth-1", image=fleet.images.thermostat("1.0.0"))
    group = fleet.group("truth", device)
    fleet.push(image, "--group", group, "--immediate", "--wait")
    fleet.expect_told(device)
    colleague = fleet.directory / "colleague"
    (colleague / "operator").mkdir(parents=True)
    for name in ("token", "context.toml", "ca.crt"):
        shutil.copy(fleet.office.home / "operator" / name, colleague / "operator" / name)
    for command, path in (
        (("device", "show", "truth-1"), "/devices/truth-1"),
        (("device", "history", "truth-1"), "/devices/truth-1/history"),
        (("release", "list", "--group", group), f"/releases?product=thermostat&group={group}"),
        (("firmware", "show", "20.1.0"), "/firmware/thermostat/app/20.1.0"),
    ):
        said = fleet.json(*command, "--home", colleague)
        assert steady(said) == steady(fleet.api("GET", path)) == steady(fleet.json(*command))
    (component,) = fleet.api("GET", "/devices/truth-1")["components"]
    assert component["digest"] == device.seen.current_digest() == image.digest
