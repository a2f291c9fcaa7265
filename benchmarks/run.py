"""`make bench`: a 64 MiB update through a real agent, beside curl from nginx and sha256sum, in the same run.

Both sides are given the same image on the same disk over loopback, in turn, several times. The agent's time is from
taking the release to the image verified on the disk: signed metadata, chunk list, chunks, each chunk hashed and written
and made durable, then the whole image read back and hashed. The yardstick's is `curl` to a file, then `sha256sum`.
The agent is installed as on a device: pure Python, without `cryptography`, in the environment that its unit gives it.
Everything goes over TLS, as in production: curl over HTTPS, the agent over MQTT with a certificate of its own.

Both are given a calm moment to begin in, if one comes soon: on a machine that others use, too, a figure tells of them.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cloud.broker import find_mosquitto, free_port
from cloud.cli import fleetlift
from cloud.demo.operating import Operator
from cloud.demo.telling import Teller, wait_for
from cloud.demo.world import HOST, Device, Process, World, answers
from cloud.durable import write_durably
from cloud.pki.authorities import Authorities
from tests.support.distribution import build_wheel, install_as_on_a_device

MIB = 1 << 20
UNIT = Path(__file__).parents[1] / "deploy" / "fleetlift-agent.service"
IDLE = ("{python}", "-c", "import signal; signal.pause()", "{image}")
CALM_MOMENT_S = 0.2
CALM_SHARE = 0.1
START_TIMEOUT_S = 20.0
UPDATE_TIMEOUT_S = 120.0
_STAMP = re.compile(r"(\S+ \S+) INFO device_agent\.driver: (\w+), so from")


@dataclass(frozen=True, slots=True)
class Update:
    """One update through the agent."""

    seconds: float
    of_it_verifying_s: float
    cpu_s: float
    cloud_cpu_s: float
    broker_cpu_s: float


@dataclass(frozen=True, slots=True)
class Download:
    """One download by curl and sha256sum."""

    seconds: float
    cpu_s: float


def main() -> int:
    """Measure, print, and return 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=[64], nargs="+", metavar="N", help="one table for each")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--calm-s", type=float, default=10.0, help="how long to wait for a calm moment, each time")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    missing = [name for name in ("nginx", "curl", "sha256sum") if find(name) is None]
    missing += [] if find_mosquitto() else ["mosquitto"]
    if missing:
        print(f"bench: {', '.join(missing)} is missing; install nginx-light, curl and mosquitto", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fleetlift-bench-") as scratch:
        figures = measure(Path(scratch), [size * MIB for size in options.size_mib], options.repetitions, options.calm_s)
    for size in figures["sizes"]:
        print(table(size))
    if options.report:
        options.report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(directory: Path, sizes_bytes: Sequence[int], repetitions: int, calm_s: float) -> dict[str, Any]:
    """Return the figures of both sides, for each size."""
    with served_by_nginx(directory) as (address, authority), agent_running(directory) as (world, operator, agent):
        sizes = []
        for order, size_bytes in enumerate(sizes_bytes):
            updates: list[Update] = []
            downloads: list[Download] = []
            forget_peak_memory(agent)
            for number in range(repetitions):
                image = directory / "www" / f"image-{order}-{number}"
                write_noise(image, size_bytes)
                wait_for_calm(calm_s)
                downloads.append(download(f"{address}/{image.name}", authority, directory / "downloaded"))
                upload(operator, image, version := f"1.{order}.{number}")
                wait_for_calm(calm_s)
                updates.append(update(world, operator, agent, version))
                image.unlink()
            sizes.append(figures_of(size_bytes, updates, downloads, peak_memory_mib(agent)))
    return {"sizes": sizes, "machine": {"cpus": os.cpu_count(), "python": sys.version.split()[0]}}


def figures_of(
    size_bytes: int, updates: Sequence[Update], downloads: Sequence[Download], peak_mib: float
) -> dict[str, Any]:
    """Return the figures for one size."""
    ratio = statistics.median(item.seconds for item in downloads) / statistics.median(item.seconds for item in updates)
    return {
        "size_bytes": size_bytes,
        "updates": [asdict(item) for item in updates],
        "downloads": [asdict(item) for item in downloads],
        "agent_peak_mib": round(peak_mib, 1),
        "ratio": round(ratio, 2),
    }


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    updates, downloads = figures["updates"], figures["downloads"]

    def row(name: str, seconds: list[float], cpu: list[float]) -> str:
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        return f"{name:24} {statistics.median(seconds):8.2f}   {spread:14} {statistics.median(cpu):8.2f}"

    size = int(str(figures["size_bytes"])) // MIB
    lines = [
        f"{size} MiB over loopback and TLS, median of {len(updates)}",
        f"{'':24} {'seconds':>8}   {'range':14} {'CPU s':>8}",
        row("curl, then sha256sum", [d["seconds"] for d in downloads], [d["cpu_s"] for d in downloads]),
        row("the agent", [u["seconds"] for u in updates], [u["cpu_s"] for u in updates]),
        f"of it verifying {statistics.median(item['of_it_verifying_s'] for item in updates):.2f} s",
        "of the cloud {:.2f}, of the broker {:.2f} CPU s".format(
            *(statistics.median(item[name] for item in updates) for name in ("cloud_cpu_s", "broker_cpu_s"))
        ),
        f"ratio {figures['ratio']} (1.0 or more: at least as fast), agent's peak {figures['agent_peak_mib']} MiB",
    ]
    return "\n".join(lines)


@contextmanager
def served_by_nginx(directory: Path) -> Iterator[tuple[str, Path]]:
    """Serve `directory/www` over HTTPS by an nginx of our own; yields its address, and what to know it by."""
    (directory / "www").mkdir()
    port = free_port()
    authorities = Authorities.create(directory / "nginx-ca")
    authority, certificate = directory / "nginx-ca.crt", directory / "nginx.pem"
    write_durably(authority, authorities.trusted("services"))
    write_durably(certificate, authorities.issue_service("nginx", [HOST], server=True))
    settings = directory / "nginx.conf"
    settings.write_text(
        f"daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;\n"
        + ("user root;\n" if os.geteuid() == 0 else "")
        + "events {}\n"
        f"http {{ access_log off; sendfile on; client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;\n"
        f"fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;\n"
        f"server {{ listen {HOST}:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};\n"
        f"ssl_protocols TLSv1.2 TLSv1.3; root {directory}/www; }} }}\n",
        encoding="utf-8",
    )
    nginx = subprocess.Popen([str(find("nginx")), "-c", str(settings), "-e", str(directory / "nginx.log")])
    try:
        (directory / "www" / "ready").touch()
        if not wait_for(lambda: answers(f"https://{HOST}:{port}/ready", authority), START_TIMEOUT_S):
            raise SystemExit(f"bench: nginx does not answer; see {directory}/nginx.log")
        yield f"https://{HOST}:{port}", authority
    finally:
        nginx.terminate()
        nginx.wait()


@contextmanager
def agent_running(directory: Path) -> Iterator[tuple[World, Operator, Process]]:
    """Run a broker, a cloud and one agent, whose application does nothing."""
    world = World(directory / "world", "mosquitto")
    assert world.tls and world.broker.url.startswith("mqtts:")  # noqa: S101, PT018 - what is measured goes over TLS
    operator = Operator(world, Teller(), fleetlift)
    agent = Process("agent", [], world.logs / "agent.log", environment_of(UNIT))
    try:
        operator.run("init", "--product", "bench", "--hardware", "any", *world.settings(), quiet=True)
        world.broker.start()
        world.start_cloud()
        settings = world.directory / "device"
        world.devices["bench"] = Device("bench", settings, 0, agent)
        command = [word for part in IDLE for word in ("--app-command", part)]
        operator.run("device", "enrol", "bench", "--directory", str(settings), "--soak", "0", *command, quiet=True)
        device = install_as_on_a_device(build_wheel(directory), directory / "installed")
        agent.command = [str(device / "fleetlift-agent"), "run", "--config", str(settings / "agent.toml")]
        agent.start()
        wait_for(lambda: operator.run("device", "show", "bench", quiet=True)["online"], UPDATE_TIMEOUT_S)
        yield world, operator, agent
    finally:
        world.stop()


def upload(operator: Operator, image: Path, version: str) -> None:
    """Publish an image, for nobody yet."""
    facts = ["--product", "bench", "--version", version, "--hardware", "any"]
    operator.run("firmware", "upload", str(image), *facts, quiet=True)


def environment_of(unit: Path) -> dict[str, str]:
    """Return the variables that a systemd unit sets itself."""
    return dict(re.findall(r"^Environment=(\w+)=(\S+)$", unit.read_text(encoding="utf-8"), re.MULTILINE))


def update(world: World, operator: Operator, agent: Process, version: str) -> Update:
    """Have the agent take a version, and measure that."""
    heard = agent.log_path.stat().st_size
    pids = (pid_of(agent), pid_of(world.cloud), world.broker.pid)
    before = [cpu_seconds(pid) for pid in pids]
    operator.run("ota", "bench", version, "--yes", quiet=True)
    stamps: dict[str, datetime] = {}

    def verified() -> bool:
        with agent.log_path.open(encoding="utf-8") as log:
            log.seek(heard)
            for moment, event in _STAMP.findall(log.read()):
                stamps.setdefault(event, datetime.strptime(moment, "%Y-%m-%d %H:%M:%S,%f"))  # noqa: DTZ007 - a difference
        return "Verified" in stamps

    if not wait_for(verified, UPDATE_TIMEOUT_S, 0.01):
        raise SystemExit(f"bench: the update did not come to its end:\n{agent.last_lines()}")
    used = [cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)]
    wait_for(lambda: operator.run("device", "show", "bench", quiet=True)["phase"] == "idle", UPDATE_TIMEOUT_S)
    taken, downloaded, verified_at = (stamps[name] for name in ("Taken", "Downloaded", "Verified"))
    return Update((verified_at - taken).total_seconds(), (verified_at - downloaded).total_seconds(), *used)


def download(url: str, authority: Path, target: Path) -> Download:
    """Fetch with curl, hash with sha256sum."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([str(find("curl")), "-sS", "--cacert", str(authority), "-o", str(target), url], check=True)
    subprocess.run([str(find("sha256sum")), str(target)], check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, os.times()
    target.unlink()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return Download(seconds, used)


def write_noise(path: Path, size_bytes: int) -> None:
    """Write bytes that nothing can compress."""
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))


def find(name: str) -> str | None:
    """Return where a program is, also where administrators have it."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def pid_of(process: Process) -> int:
    """Return a running process's id."""
    return process.child.pid if process.child else 0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_calm(at_most_s: float) -> None:
    """Return when the machine had next to nothing to do for a moment, or after a while."""
    deadline = time.monotonic() + at_most_s
    busy, all_of_it = busy_and_all_ticks()
    while time.monotonic() < deadline:
        time.sleep(CALM_MOMENT_S)
        was_busy, was_all = busy, all_of_it
        busy, all_of_it = busy_and_all_ticks()
        if busy - was_busy <= CALM_SHARE * (all_of_it - was_all):
            return


def busy_and_all_ticks() -> tuple[int, int]:
    """Return how many ticks of its processors the machine was busy, and how many there were."""
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def forget_peak_memory(agent: Process) -> None:
    """Have the peak begin at what is resident now (`5`, see proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid_of(agent)}/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mib(agent: Process) -> float:
    """Return the most memory that the agent had resident."""
    status = Path(f"/proc/{pid_of(agent)}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
