"""The agent's settings: what is read, and how each mistake is told, with its file, line and key."""

import re
from pathlib import Path

import pytest

from device_agent.admission import InstallPolicy
from device_agent.config import IdentitySettings, load, load_applicant, load_control_socket
from device_agent.config_table import MAX_CONFIG_BYTES
from device_agent.health import AliveCheck, ExecCheck, HttpCheck
from device_agent.identity.store import Identity
from protocol.codec import encode
from protocol.errors import UserError

GOOD = """\
[device]
id = "pi-1"
product = "thermostat"
hardware_model = "pi4"
state_dir = "state"
root = "/etc/fleetlift/root.json"
attributes = { site = "lab" }
timezone = "Europe/Lisbon"

[broker]
url = "mqtt://127.0.0.1:1883"
topic_root = "fleetlift/v1"
username = "pi-1"
password_file = "password"

[updates]
enabled_at_start = false
install = "next_start"
check_interval_s = 60
window_bytes = 1048576
startup_wait_s = 2.5
longest_deferral_s = 3600
gauge_interval_s = 10

[components.app]
command = ["{python}", "{image}"]
env = { FLEETLIFT_HEALTH_PORT = "8080" }
health = { kind = "http", url = "http://127.0.0.1:8080/health", interval_s = 0.5 }
soak_s = 5
prove_timeout_s = 30
confirm = true
needs_broker = false
capacity_bytes = 1000000
golden = "golden"
data_dir = "state/data/app/db"
data_sync = "none"
drain_command = ["flush-queue", "--all"]
drain_timeout_s = 5

[components.os]
backend = "files"
restart_command = ["systemctl", "restart", "os"]
stop_command = ["systemctl", "stop", "os"]
health = { kind = "exec", command = ["true"] }
"""
LEAST = """\
[device]
id = "pi-1"
product = "thermostat"
hardware_model = "pi4"
state_dir = "state"
root = "root.json"
[broker]
url = "mqtt://127.0.0.1"
[components.app]
command = ["{image}"]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(UserError) as refused:
        load(write(tmp_path, text))
    assert refused.value.exit_code == 2
    return str(refused.value)


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD))
    assert (settings.device_id, settings.product, settings.hardware_model) == ("pi-1", "thermostat", "pi4")
    assert (settings.state_dir, settings.root) == (tmp_path / "state", Path("/etc/fleetlift/root.json"))
    assert settings.control_socket == tmp_path / "state" / "control.sock"
    assert settings.attributes == {"site": "lab"}
    assert (settings.broker.username, settings.broker.password_file) == ("pi-1", tmp_path / "password")
    assert settings.updates.install is InstallPolicy.NEXT_START
    assert (settings.updates.enabled_at_start, settings.updates.check_interval_s) == (False, 60.0)
    assert (settings.updates.window_bytes, settings.updates.startup_wait_s) == (1048576, 2.5)
    assert (settings.timezone, settings.updates.longest_deferral_s) == ("Europe/Lisbon", 3600.0)
    app, os = settings.components["app"], settings.components["os"]
    assert app.command == ("{python}", "{image}")
    assert app.env == {"FLEETLIFT_HEALTH_PORT": "8080"}
    assert app.health.check == HttpCheck("http://127.0.0.1:8080/health")
    assert (app.soak_s, app.prove_timeout_s, app.confirm, app.needs_broker) == (5.0, 30.0, True, False)
    assert (app.capacity_bytes, app.golden, app.health.interval_s) == (1000000, tmp_path / "golden", 0.5)
    assert (app.data_dir, app.data_sync) == (tmp_path / "state/data/app/db", "none")
    assert (app.drain_command, app.drain_timeout_s) == (("flush-queue", "--all"), 5.0)
    assert (os.data_dir, os.data_sync, settings.updates.gauge_interval_s) == (None, "application", 10.0)
    assert os.health.check == ExecCheck(("true",))
    assert os.restart_command == ("systemctl", "restart", "os")


@pytest.mark.parametrize(("told", "expected"), [("Asia/Tokyo", "Asia/Tokyo"), ("UTC", "UTC")])
def test_the_system_s_time_zone_is_the_device_s_unless_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, expected: str
) -> None:
    monkeypatch.setenv("TZ", told)
    assert load(write(tmp_path, LEAST)).timezone == expected
    assert load(write(tmp_path, LEAST.replace("[device]", '[device]\ntimezone = ""'))).timezone == ""
    assert load(write(tmp_path, GOOD)).timezone == "Europe/Lisbon"


def test_the_least(tmp_path: Path) -> None:
    settings = load(write(tmp_path, LEAST))
    assert settings.updates.longest_deferral_s == 7 * 86_400
    assert settings.updates.enabled_at_start
    assert settings.updates.install is InstallPolicy.AVAILABLE
    assert settings.updates.check_interval_s == 86_400
    app = settings.components["app"]
    assert app.health.check == AliveCheck()
    assert app.needs_broker
    assert app.prove_timeout_s > app.soak_s > 0


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write(inside, LEAST)
    monkeypatch.chdir(tmp_path)
    assert load(Path("inside/agent.toml")).state_dir == inside / "state"


@pytest.mark.parametrize(
    ("was", "becomes", "key"),
    [
        ('id = "pi-1"', "", "device.id is missing"),
        ('id = "pi-1"', 'idd = "pi-1"', "device.idd: not a key of this table; did you mean id?"),
        ('product = "thermostat"', 'prodcut = "thermostat"', "device.prodcut: not a key .* did you mean product?"),
        ('product = "thermostat"', 'product = "thermostat"\nprodukt = "x"', "device.produkt: not a key"),
        (
            'url = "mqtt://127.0.0.1:1883"',
            'adress = "mqtt://127.0.0.1:1883"',
            "broker.adress: .* known are password_file",
        ),
        ("soak_s = 5", "soak = 5", "components.app.soak: not a key .* did you mean soak_s?"),
        ("soak_s = 5", 'name = "app"', "components.app.name: not a key"),
        ('command = ["{python}"', 'comand = ["{python}"', "components.app.comand: .* did you mean command?"),
        ("interval_s = 0.5", "intervall_s = 0.5", "components.app.health.intervall_s: not a key"),
        ("[updates]", "[update]", "update: not a key of this table; did you mean updates?"),
        ("[broker]", "[brocker]", "brocker: not a key of this table; did you mean broker?"),
        ("check_interval_s = 60", 'check_interval_s = "60"', "updates.check_interval_s: a whole number or a number"),
        ("check_interval_s = 60", "check_interval_s = 0", "updates.check_interval_s: 0 is not 1 to"),
        ("check_interval_s = 60", "check_interval_s = nan", "updates.check_interval_s: nan is not 1 to"),
        ("window_bytes = 1048576", "window_bytes = 1", "updates.window_bytes: 1 is not 65536 to"),
        ("window_bytes = 1048576", "window_bytes = true", "updates.window_bytes: a whole number is expected"),
        ("enabled_at_start = false", "enabled_at_start = 0", "updates.enabled_at_start: true or false is expected"),
        ('install = "next_start"', 'install = "later"', "updates.install: 'later' is not one of available, next_start"),
        ("Europe/Lisbon", "Europe/Atlantis", "device.timezone: 'Europe/Atlantis' is no zone of the IANA database"),
        ("longest_deferral_s = 3600", "longest_deferral_s = -1", "updates.longest_deferral_s: -1 is not 0 to"),
        ('id = "pi-1"', 'id = "Pi 1"', "device.id: .*not an id"),
        ("[components.app]", "[components.App]", "components.App: component 'App' is not an id"),
        ('url = "mqtt://127.0.0.1:1883"', 'url = "http://x"', "broker.url: .*is not like mqtt://"),
        ('topic_root = "fleetlift/v1"', 'topic_root = "a/b/c"', "broker.topic_root: .*one or two levels"),
        ("http://127.0.0.1:8080/health", "http://example.org/health", "components.app.health.url: .*no health check"),
        ('kind = "http"', 'kind = "exec"', "components.app.health.kind: http has a url"),
        ('kind = "http"', 'kind = "ping"', "components.app.health.kind: 'ping' is not one of"),
        ('command = ["{python}", "{image}"]', 'command = "run"', "components.app.command: a list"),
        ('command = ["{python}", "{image}"]', 'command = [""]', "components.app.command: a list of words"),
        ('command = ["{python}", "{image}"]', "", "components.app has either command or restart_command"),
        ("prove_timeout_s = 30", "prove_timeout_s = 4", "components.app.prove_timeout_s: 4 is not longer than soak_s"),
        ('env = { FLEETLIFT_HEALTH_PORT = "8080" }', "env = { PORT = 1 }", "components.app.env: a table of texts"),
        (
            'data_sync = "none"',
            'data_sync = "never"',
            "components.app.data_sync: 'never' is not one of application, none",
        ),
        ("gauge_interval_s = 10", "gauge_interval_s = 0", "updates.gauge_interval_s: 0 is not 1 to"),
        ('data_dir = "state/data/app/db"', "", "components.app.drain_command: there is no data_dir to drain into"),
        (
            'stop_command = ["systemctl", "stop", "os"]',
            'data_dir = "os-data"',
            "components.os.data_dir: it can be saved only while the application does not run; add stop_command",
        ),
        (
            'stop_command = ["s',
            'data_dir = "state/data/app/db/os"\nstop_command = ["s',
            "components.os: .* is app's, too",
        ),
        ('backend = "files"', 'backend = "rauc"', "components.os.backend: 'rauc' is not one of files"),
        ('attributes = { site = "lab" }', f'attributes = {{ site = "{"x" * 201}" }}', "device.attributes: at most"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(tmp_path: Path, was: str, becomes: str, key: str) -> None:
    assert was in GOOD
    text = GOOD.replace(was, becomes, 1)
    message = refusal(tmp_path, text)
    assert re.search(key, message), message
    line = re.match(rf"{re.escape(str(tmp_path))}/agent\.toml:(\d+): ", message)
    assert line, message
    where = [number for number, content in enumerate(text.splitlines(), start=1) if becomes and becomes in content]
    if "missing" not in key and "either" not in key and where:
        assert int(line[1]) in (where[0], where[0] + becomes.count("\n")), message


def test_other_mistakes(tmp_path: Path) -> None:
    assert "not TOML" in refusal(tmp_path, "[device")
    assert "not TOML" in refusal(tmp_path, "[device]\nid = " + "9" * 5000)
    assert "not TOML" in refusal(tmp_path, "[device]\nid = " + "[" * 5000)
    assert "components is missing" in refusal(tmp_path, LEAST.partition("[components")[0])
    assert "device is missing" in refusal(tmp_path, "")
    assert "device: a table is expected" in refusal(tmp_path, "device = 1")
    assert "1 to 16 components" in refusal(tmp_path, LEAST.partition("[components")[0] + "[components]")
    assert "larger than" in refusal(tmp_path, LEAST + "#" * MAX_CONFIG_BYTES)
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(UserError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "agent.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not TOML"):
        load(tmp_path / "agent.toml")


def test_a_socket_elsewhere(tmp_path: Path) -> None:
    text = LEAST.replace("[broker]", 'control_socket = "/run/fleetlift-agent/control.sock"\n[broker]')
    assert load(write(tmp_path, text)).control_socket == Path("/run/fleetlift-agent/control.sock")
    assert load_control_socket(tmp_path / "agent.toml") == Path("/run/fleetlift-agent/control.sock")


def test_who_only_talks_to_the_agent_needs_not_read_its_identity(tmp_path: Path) -> None:
    assert load_control_socket(write(tmp_path, WITH_IDENTITY)) == tmp_path / "state" / "control.sock"
    with pytest.raises(UserError, match="state_dir is missing"):
        load_control_socket(write(tmp_path, "[device]\n"))


WITH_IDENTITY = (
    LEAST.replace('id = "pi-1"\n', "")
    .replace('[broker]\nurl = "mqtt://127.0.0.1"\n', "")
    .replace("[components", '[identity]\ndirectory = "identity"\nserver = "https://cloud"\n[components')
)
IDENTITY = Identity(
    device_id="pi-7",
    product="thermostat",
    server="https://cloud",
    broker_url="mqtts://broker.example",
    topic_root="ota/v2",
    certificate="device-ab.pem",
    not_before_ms=1,
    not_after_ms=2,
)


def enrolled(tmp_path: Path, text: str = WITH_IDENTITY) -> Path:
    (tmp_path / "identity").mkdir(exist_ok=True)
    (tmp_path / "identity" / "identity.json").write_bytes(encode(IDENTITY))
    return write(tmp_path, text)


def test_a_device_that_enrolled_knows_its_id_and_its_broker_from_there(tmp_path: Path) -> None:
    settings = load(enrolled(tmp_path))
    assert settings.identity == IdentitySettings(directory=tmp_path / "identity", server="https://cloud")
    assert (settings.device_id, settings.broker.url, settings.broker.topic_root) == (
        "pi-7",
        "mqtts://broker.example",
        "ota/v2",
    )


def test_what_the_settings_say_of_the_broker_counts(tmp_path: Path) -> None:
    text = WITH_IDENTITY + '[broker]\nurl = "mqtts://nearer"\n'
    settings = load(enrolled(tmp_path, text))
    assert (settings.broker.url, settings.broker.topic_root) == ("mqtts://nearer", "ota/v2")


def test_a_device_that_is_not_enrolled_is_told_how(tmp_path: Path) -> None:
    message = refusal(tmp_path, WITH_IDENTITY)
    assert f"Do: fleetlift-agent enrol --config {tmp_path}/agent.toml" in message


def test_what_it_takes_to_enrol_is_less(tmp_path: Path) -> None:
    found = load_applicant(write(tmp_path, WITH_IDENTITY))
    assert (found.device_id, found.product, found.hardware_model) == (None, "thermostat", "pi4")
    assert (found.root, found.broker_url) == (tmp_path / "root.json", None)
    with pytest.raises(UserError, match=r"there is no \[identity\]"):
        load_applicant(write(tmp_path, LEAST))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WITH_IDENTITY.replace("https://cloud", "http://cloud"), "identity.server: the server's url"),
        (WITH_IDENTITY.replace('directory = "identity"', ""), "identity.directory is missing"),
        (WITH_IDENTITY.replace("directory", "directroy"), "identity.directroy: not a key of this table; did you mean"),
        (WITH_IDENTITY.replace("[device]", '[device]\nid = "pi-1"'), "device.id: pi-1, but the device is enrolled as"),
        (WITH_IDENTITY.replace('"thermostat"', '"kettle"'), "device.product: kettle, but the device is enrolled as"),
    ],
)
def test_a_mistake_about_the_identity_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        load(enrolled(tmp_path, text))


@pytest.mark.parametrize("host", ["broker.example", "192.0.2.1", "[2001:db8::1]"])
def test_nothing_goes_over_a_network_in_the_clear(tmp_path: Path, host: str) -> None:
    assert "in the clear; use mqtts://" in refusal(tmp_path, LEAST.replace("mqtt://127.0.0.1", f"mqtt://{host}"))
    assert load(write(tmp_path, LEAST.replace("mqtt://127.0.0.1", f"mqtts://{host}"))).identity is None
    for near in ("localhost", "[::1]", "127.9.9.9"):
        load(write(tmp_path, LEAST.replace("mqtt://127.0.0.1", f"mqtt://{near}")))
