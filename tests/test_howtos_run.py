"""docs/howto for production, run: the files of deploy/ beside a real Mosquitto, nginx, and PostgreSQL over TLS.

Only paths, ports and users are this test's own. What a service manager does, the test does in its place.
"""

import grp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cloud.broker import find_mosquitto
from cloud.pki.authorities import Authorities
from cloud.tls import client_context
from tests.cloud.cli.offices import Answer, Office, captured
from tests.cloud.homes import MODEL, PRODUCT
from tests.support.brokers import free_port, missing_service, require_mosquitto
from tests.support.postgres import USER, Cluster, running_cluster
from tests.support.processes import Processes, Started, wait_until

REPOSITORY = Path(__file__).parents[1]
DEPLOY = REPOSITORY / "deploy"
HOWTO = (REPOSITORY / "docs" / "howto" / "one-machine.md").read_text(encoding="utf-8")
NAME = "localhost"
PATH_UNIT = """
import os, signal, sys, time
path, pid, seen = sys.argv[1], int(sys.argv[2]), None
while True:
    now = os.stat(path).st_mtime_ns if os.path.exists(path) else None
    if now != seen:
        seen = now
        os.kill(pid, signal.SIGHUP)
    time.sleep(0.05)
"""
"""In place of deploy/mosquitto-reload.path."""


def section(heading: str) -> str:
    """Return a part of the how-to."""
    return HOWTO.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return found or missing_service(f"{name} is not installed")


@dataclass
class Site:
    """One machine: a directory in place of /etc, /var and /run, and what runs there."""

    directory: Path
    office: Office
    database: Cluster
    authorities: Authorities
    broker_files: Path
    doors: tuple[int, int]
    proxy_port: int

    @property
    def services_ca(self) -> Path:
        return self.office.home / "cloud" / "tls" / "services-ca.crt"

    @property
    def proxy(self) -> str:
        return f"https://{NAME}:{self.proxy_port}"

    @property
    def public_ca(self) -> Path:
        return self.directory / "public-ca.crt"

    def settle(self) -> None:
        """Write the section [broker] as the how-to says, with this machine's paths and ports."""
        said = re.search(r"```toml\n(.*?)```", section("3. Server and broker as services"), re.DOTALL)
        assert said
        devices, cloud = self.doors
        mine = (
            said[1]
            .replace("/etc/fleetlift/broker", str(self.broker_files))
            .replace("ota.example:8883", f"{NAME}:{devices}")
            .replace("127.0.0.1:8884", f"127.0.0.1:{cloud}")
        )
        path = self.office.home / "cloud" / "fleetlift.toml"
        text = path.read_text()
        path.write_text(text[: text.index("[broker]")] + mine + text[text.index("[storage]") :])

    def start_broker(self) -> Started:
        """Run the project's mosquitto.conf, which drops root for the user `mosquitto`."""
        devices, cloud = self.doors
        state = self.directory / "mosquitto"
        state.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(state, "mosquitto", "mosquitto")
        text = (REPOSITORY / "mosquitto.conf").read_text()
        replaced = {
            "/etc/fleetlift/broker": str(self.broker_files),
            "persistence_location /var/lib/mosquitto/": f"persistence_location {state}/",
            "/run/mosquitto/": f"{state}/",
            "listener 8883": f"listener {devices} 127.0.0.1",
            "listener 8884 ": f"listener {cloud} ",
        }
        for one, other in replaced.items():
            assert one in text
            text = text.replace(one, other)
        config = self.broker_files / "mosquitto.conf"
        config.write_text(text)
        config.chmod(0o640)
        broker = self.office.processes.start(find_mosquitto() or "", "-c", config, name="mosquitto")
        broker.wait_for_line("running")
        changed = self.broker_files / "changed"
        self.office.processes.start(sys.executable, "-c", PATH_UNIT, str(changed), str(broker.pid), name="path unit")
        return broker

    def start_proxy(self) -> Started:
        """Run deploy/nginx.conf as a site of an nginx."""
        pem = self.authorities.issue_service("proxy", (NAME,), server=True)
        (self.directory / "proxy.pem").write_bytes(pem)
        self.public_ca.write_bytes(self.authorities.trusted("services"))
        text = (DEPLOY / "nginx.conf").read_text()
        replaced = {
            "listen 443 ssl": f"listen 127.0.0.1:{self.proxy_port} ssl",
            "/etc/ssl/certs/console.example.pem": str(self.directory / "proxy.pem"),
            "/etc/ssl/private/console.example.key": str(self.directory / "proxy.pem"),
            "https://127.0.0.1:8321": f"https://127.0.0.1:{self.office.port}",
            "/etc/fleetlift/services-ca.crt": str(self.services_ca),
        }
        for one, other in replaced.items():
            assert one in text
            text = text.replace(one, other)
        kinds = "".join(f"{it}_temp_path {self.directory}/nginx-{it}; " for it in ("proxy", "client_body", "fastcgi"))
        kinds += "".join(f"{it}_temp_path {self.directory}/nginx-{it}; " for it in ("uwsgi", "scgi"))
        config = self.directory / "nginx.conf"
        config.write_text(
            f"daemon off; pid {self.directory}/nginx.pid; error_log stderr;\n"
            + ("user root;\n" if os.geteuid() == 0 else "")
            + f"events {{}}\nhttp {{ access_log off; {kinds}\n{text}\n}}\n"
        )
        nginx = program("nginx")
        checked = subprocess.run([nginx, "-t", "-c", config], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "warn" not in checked.stderr
        return self.office.processes.start(nginx, "-c", config, name="nginx")

    def outside(self, address: str = "127.0.0.1") -> httpx.Client:
        """Somebody who comes by the proxy from an address."""
        transport = httpx.HTTPTransport(verify=client_context(self.public_ca), local_address=address)
        return httpx.Client(base_url=self.proxy, transport=transport, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require_mosquitto()
    program("nginx")
    with tempfile.TemporaryDirectory(prefix="fleetlift-site-") as name:
        directory = Path(name)
        directory.chmod(0o711)  # the broker is somebody else, as in production
        (directory / "logs").mkdir()
        authorities = Authorities.create(directory / "somebodys-ca")
        port = free_port()

        def over_tls(cluster: Cluster) -> dict[str, str]:
            pem = cluster.private("server.pem", authorities.issue_service("database", (NAME,), server=True))
            files = dict.fromkeys(("ssl_cert_file", "ssl_key_file"), str(pem))
            return {"listen_addresses": "127.0.0.1", "port": str(port), "ssl": "on", **files}

        with running_cluster(over_tls) as database:
            office = Office(directory, Processes(directory / "logs"), free_port(), free_port())
            made = Site(
                directory,
                office,
                database,
                authorities,
                directory / "broker",
                (office.broker_port, free_port()),
                free_port(),
            )
            try:
                run(made, port)
                yield made
            finally:
                office.processes.close()


def run(site: Site, database_port: int) -> None:
    """Do what the how-to says, one step after the other."""
    ca = site.directory / "db-ca.crt"
    ca.write_bytes(site.authorities.trusted("services"))
    many = (REPOSITORY / "docs" / "howto" / "many-machines.md").read_text(encoding="utf-8")
    url = re.search(r"--database '(postgresql://[^']+)'", many)
    assert url
    mine = (
        url[1]
        .replace("fleetlift@db.example/fleetlift", f"{USER}@{NAME}:{database_port}/{site.database.create()}")
        .replace("/etc/fleetlift/db-ca.crt", str(ca))
    )
    assert "verify-full" in mine
    site.office.call(
        *("init", "--name", NAME, "--broker", f"mqtts://{NAME}:{site.doors[0]}", "--cloud-port", site.doors[1]),
        *("--port", site.office.port, "--product", PRODUCT, "--hardware", MODEL, "--no-passphrase", "--database", mine),
    )
    site.settle()
    site.broker_files.mkdir()
    if os.geteuid() == 0:
        shutil.chown(site.broker_files, group="mosquitto")
    site.broker_files.chmod(0o2750)
    server = site.office.start("serve", name="serve")
    server.wait_for_line("serves operators at", timeout_s=30)  # the broker's files are there now
    site.start_broker()
    server.wait_for_line("Ready.", timeout_s=30)
    site.start_proxy()
    wait_until(lambda: answers(site), 20, "nginx answering")


def answers(site: Site) -> bool:
    with site.outside() as client:
        try:
            return client.get("/livez").is_success
        except httpx.ConnectError:
            return False


@pytest.mark.broker
@pytest.mark.postgresql
def test_the_doctor_finds_nothing_wrong(site: Site) -> None:
    found = site.office.run("doctor", "--revoke", "-o", "json")
    checks = {it["check"]: it["verdict"] for it in json.loads(found.out)["findings"]}
    assert found.code == 0, found.out
    assert [name for name, verdict in checks.items() if verdict in ("fail", "warn")] == []
    assert {checks[it] for it in ("revocation", "files", "configuration", "access-rules")} == {"ok"}
    if os.geteuid() == 0:
        (pid,) = [it.pid for it in site.office.processes.started if it.name == "mosquitto"]
        assert Path(f"/proc/{pid}").stat().st_gid == grp.getgrnam("mosquitto").gr_gid, "it runs as somebody else"


@pytest.mark.broker
@pytest.mark.postgresql
def test_the_database_is_spoken_to_over_tls_and_has_to_prove_itself(site: Site) -> None:
    used = site.database.run(
        "SELECT ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_port > 0"
    )
    assert used
    assert all(it["ssl"] and it["version"] == "TLSv1.3" for it in used), used
    settings = (site.office.home / "cloud" / "fleetlift.toml").read_text()
    (url,) = re.findall(r'^database = "(.+)"$', settings, re.MULTILINE)
    for wrong, why in (
        (url.replace(f"@{NAME}:", "@127.0.0.1:"), "does not match host name"),
        (url.replace("db-ca.crt", "home/cloud/tls/services-ca.crt"), "certificate verify failed"),
    ):
        answer = site.office.call(
            *("init", "--home", site.directory / "other", "--product", PRODUCT, "--hardware", MODEL),
            *("--no-passphrase", "--database", wrong),
            expect=1,
        )
        assert why in answer.err
        assert not (site.directory / "other").exists()


@pytest.mark.broker
@pytest.mark.postgresql
def test_the_console_works_behind_the_proxy_and_knows_who_comes(site: Site) -> None:
    code = site.office.json("console")["code"]
    with site.outside("127.0.0.2") as browser:
        answer = browser.post("/login", data={"code": code}, headers={"Origin": site.proxy})
        assert (answer.status_code, answer.headers["location"]) == (303, "/"), answer.text
        assert "Secure" in answer.headers["set-cookie"]
        assert "Overview" in browser.get("/").text
        with browser.stream("GET", "/live") as live:
            assert next(live.iter_lines()) == "retry: 1000", "what happens is passed on as it happens"
        crooked = {"X-Forwarded-For": "192.0.2.66"}
        code = site.office.json("console")["code"]
        assert browser.post("/api/v1/login-codes/token", json={"code": code}, headers=crooked).status_code == 201
    for action in ("person.logged_in", "token.added"):
        newest = site.office.json("audit", "list", "--action", action, "--limit", "1")[0]
        assert newest["origin"]["address"] == "127.0.0.2", f"{action}: the proxy's word counts, and no caller's"


@pytest.mark.broker
@pytest.mark.postgresql
def test_operators_log_in_by_the_proxy_and_push_through_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    link = site.office.call("console").out
    answer = Answer(*captured("login", site.proxy, "--ca-file", site.public_ca, "--code", typed=link))
    assert answer.code == 0, answer.err
    image = tmp_path / "app"
    image.write_bytes(os.urandom(3 * 1024**2))
    pushed = site.office.call(
        *("--server", site.proxy, "--ca-file", site.public_ca),
        *("firmware", "upload", image, "--product", PRODUCT, "--version", "1.0.0", "--hardware", MODEL),
    )
    assert "1.0.0" in pushed.out


def test_the_how_to_names_files_that_there_are() -> None:
    for words in re.findall(r"install -D? ?-?m? ?\d* ?(?:-g mosquitto )?((?:deploy/\S+ |mosquitto\.conf )+)", HOWTO):
        for name in words.split():
            assert (REPOSITORY / name).is_file(), name
    for name in ("fleetlift.service", "mosquitto.service.d.conf", "mosquitto-reload.path", "nginx.conf"):
        assert f"deploy/{name}" in HOWTO
    assert "--groups mosquitto fleetlift" in HOWTO, "the server's user passes the broker's group on"


def test_the_units_are_what_systemd_understands(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    for unit in DEPLOY.glob("*.service"):
        text = re.sub(r"^ExecStart=/opt/\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    shutil.copy(DEPLOY / "mosquitto-reload.path", tmp_path)
    (tmp_path / "mosquitto.service").write_text("[Service]\nExecStart=/bin/true\n")
    extension = tmp_path / "mosquitto.service.d"
    extension.mkdir()
    text = (DEPLOY / "mosquitto.service.d.conf").read_text()
    assert "-c /etc/fleetlift/broker/mosquitto.conf" in text, "where the how-to puts it, and the doctor looks"
    (extension / "fleetlift.conf").write_text(text.replace("/usr/sbin/mosquitto ", "/bin/true "))
    units = sorted(str(it) for it in tmp_path.glob("*.*") if it.is_file())
    checked = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    service = (DEPLOY / "fleetlift.service").read_text()
    assert not re.search(r"^DynamicUser=", service, re.MULTILINE), "it forbids setgid, and hides the state directory"
