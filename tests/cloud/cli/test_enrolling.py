"""Enrolment, revocation and authorities as an operator does them, against a server and a Mosquitto that speak TLS."""

import hashlib
import re
import socket
import ssl
import stat
import sys
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cloud.keyring import Keyring
from device_agent.config import load
from device_agent.identity.store import IdentityStore
from protocol.enrolment import EnrolmentCode, read_code
from tests.cloud.cli.offices import TOPICS, Office
from tests.cloud.homes import MODEL, PRODUCT
from tests.support.brokers import free_port
from tests.support.mqtt import Peer
from tests.support.processes import Processes, wait_until

pytestmark = pytest.mark.broker
AGENT = Path(sys.executable).parent / "fleetlift-agent"


def secured(directory: Path, processes: Processes) -> Office:
    """An office whose server runs, with TLS everywhere."""
    opened = Office(directory, processes, free_port(), free_port())
    opened.call(
        *("init", "--product", PRODUCT, "--hardware", MODEL, "--port", opened.port),
        *("--broker-port", opened.broker_port, "--cloud-port", free_port()),
    )
    opened.serve()
    return opened


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, module_processes: Processes) -> Office:
    """An office that a module's tests share."""
    return secured(tmp_path_factory.mktemp("office"), module_processes)


@pytest.fixture
def own_office(tmp_path: Path, processes: Processes) -> Office:
    """An office for one test, which changes all of it."""
    return secured(tmp_path, processes)


def context_of(directory: Path, *, pair: Path | None = None) -> ssl.SSLContext:
    """What a device connects with from its directory, as strict as an agent."""
    store = IdentityStore(directory / "identity")
    identity = store.load()
    assert identity is not None
    context = ssl.create_default_context(cadata=store.authorities())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(pair or store.pair(identity))
    return context


def peer(office: Office, name: str, context: ssl.SSLContext) -> Peer:
    return Peer(office.broker_port, name, tls=context)


def is_let_in(office: Office, name: str, context: ssl.SSLContext) -> bool:
    """Whether the broker takes this certificate: connects, and delivers what the device itself may hear."""
    client = paho.Client(CallbackAPIVersion.VERSION2, name)
    client.tls_set_context(context)
    said: list[int] = []
    client.on_connect = lambda *arguments: said.append(arguments[3].value)
    try:
        client.connect("127.0.0.1", office.broker_port)
        while not said:
            if client.loop(1.0) is not paho.MQTT_ERR_SUCCESS:
                return False
    except (ssl.SSLError, ConnectionError):
        return False
    finally:
        client.disconnect()
        client.loop(0.1)
    return said == [0]


def code_in(path: Path) -> EnrolmentCode:
    return read_code(path.read_text())


def test_a_code_stands_alone_on_standard_output(office: Office) -> None:
    answer = office.run("token", "create", "--uses", 3, "--expires", "7d", "--name", "stock")
    assert answer.code == 0
    code = EnrolmentCode.parse(answer.out)
    assert answer.out == f"{code}\n"
    assert code.token not in answer.err
    root = Keyring(office.home / "operator" / "keys").roots()[0]
    ca = ssl.PEM_cert_to_DER_cert((office.home / "operator" / "ca.crt").read_text())
    assert (code.root_sha256, code.ca_sha256) == (hashlib.sha256(root).hexdigest(), hashlib.sha256(ca).hexdigest())
    (row,) = (row for row in office.json("token", "list") if row["name"] == "stock")
    assert (row["max_uses"], row["uses_left"], row["good"]) == (3, 3, True)
    assert row["expires_at_ms"] - row["created_at_ms"] == 7 * 86_400_000
    office.call("token", "revoke", "stock")
    assert "stock" not in office.call("token", "list").out
    assert re.search(r"stock .* revoked", office.call("token", "list", "--all").out)


def test_a_code_goes_into_a_private_file_and_never_over_another(office: Office) -> None:
    path = office.directory / "code"
    said = office.call("token", "create", "--out", path)
    code = code_in(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert code.token not in said.out + said.err
    before = len(office.json("token", "list"))
    office.call("token", "create", "--out", path, expect=5)
    office.call("token", "create", "--out", office.directory / "nowhere" / "code", expect=1)
    assert (len(office.json("token", "list")), code_in(path)) == (before, code)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--expires", "2y"), 2),
        (("--expires", "9999d"), 2),
        (("--uses", "0"), 2),
        (("--hardware", "toaster"), 2),
        (("--group", "nogroup"), 1),
        (("--product", "thermostta"), 1),
    ],
)
def test_a_token_that_cannot_be_is_refused(office: Office, words: tuple[str, ...], code: int) -> None:
    assert office.call("token", "create", *words, expect=code).out == ""


def test_an_enrolled_directory_is_what_an_agent_runs_from(office: Office) -> None:
    office.call("device", "enrol", "whole-1", "--expires", "1h")
    directory = office.directory / "whole-1"
    settings = load(directory / "agent.toml")
    identity = IdentityStore(directory / "identity").load()
    assert identity is not None
    assert (settings.device_id, identity.device_id, identity.product) == ("whole-1", "whole-1", PRODUCT)
    assert settings.broker.url == f"mqtts://127.0.0.1:{office.broker_port}"
    assert identity.server == f"https://127.0.0.1:{office.port}"
    names = {path.name for path in (directory / "identity").iterdir()}
    assert names == {"identity.json", "ca.crt", identity.certificate}
    assert not (directory / "enrolment-code").exists()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (directory, directory / "identity")} == {0o700}
    with peer(office, "whole-1", context_of(directory)) as device:
        device.subscribe(TOPICS.all_down("whole-1"))
    (certificate,) = office.json("device", "certificates", "whole-1")
    assert certificate["revoked_at_ms"] is None


def test_a_device_makes_its_own_key_with_a_code(office: Office) -> None:
    office.call("device", "enrol", "own-1", "--code-only")
    directory = office.directory / "own-1"
    assert not (directory / "identity").exists()
    path = directory / "enrolment-code"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    done = office.processes.start(
        AGENT, "enrol", "--config", str(directory / "agent.toml"), "--code-file", str(path), name="enrol"
    )
    assert done.wait(30) == 0
    assert is_let_in(office, "own-1", context_of(directory))


def test_revoking_cuts_a_device_off_and_enrolling_again_lets_it_back_in(office: Office) -> None:
    office.call("device", "enrol", "lost-1")
    directory = office.directory / "lost-1"
    old = context_of(directory)
    with peer(office, "lost-1", old) as thief:
        thief.subscribe(TOPICS.all_down("lost-1"))
        office.call("device", "revoke", "lost-1", "--reason", "stolen", "--yes")
        wait_until(lambda: not is_let_in(office, "lost-1", old), timeout_s=5, what="the broker's refusal")
    shown = office.json("device", "show", "lost-1")
    assert (shown["revoked_at_ms"] is None, shown["online"]) == (False, False)
    office.call("device", "enrol", "lost-1", "--directory", "other", expect=5)
    office.call("device", "enrol", "lost-1", "--directory", "back", "--again")
    new = context_of(office.directory / "back")
    wait_until(lambda: is_let_in(office, "lost-1", new), timeout_s=5, what="the device's return")
    assert not is_let_in(office, "lost-1", old)
    standing = [bool(row["revoked_at_ms"]) for row in office.json("device", "certificates", "lost-1")]
    assert standing == [False, True]


def listed(office: Office, name: str, *devices: str) -> Path:
    path = office.directory / f"{name}.csv"
    path.write_text("device_id,hardware_model,groups\n" + "".join(f"{line}\n" for line in devices))
    return path


def test_a_list_is_enrolled_whole_and_goes_on_where_it_was_cut_off(office: Office) -> None:
    office.call("group", "create", "hall")
    path, out = listed(office, "many", *(f"many-{number},,hall" for number in range(5))), office.directory / "many"
    (out / "many-3").mkdir(parents=True)
    (out / "many-3" / "identity").write_text("in the way")
    said = office.call("device", "enrol", "--from", path, "--out", out, expect=1)
    assert "3 of 5 are done" in said.err
    assert (out / "many-3" / "enrolment-code").exists()
    (out / "many-3" / "identity").unlink()
    made = office.json("device", "enrol", "--from", path, "--out", out)
    assert [row["device_id"] for row in made] == [f"many-{number}" for number in range(5)]
    for number in (0, 3, 4):
        assert is_let_in(office, f"many-{number}", context_of(out / f"many-{number}"))
    assert not list(out.rglob("enrolment-code"))
    assert len(office.json("device", "list", "--group", "hall")) == 5
    assert len(office.json("device", "certificates", "many-0")) == 1
    assert "5 of them were there already" in office.call("device", "enrol", "--from", path, "--out", out).out


def test_a_list_with_one_mistake_changes_nothing(office: Office) -> None:
    office.call("device", "enrol", "there-1")
    out = office.directory / "wrong"
    for line, code, why in (
        ("there-1,,", 5, "line 4: device there-1 is registered already"),
        ("wrong-3,toaster,", 2, "line 4: thermostat has no hardware model 'toaster'"),
        ("wrong-3,,nogroup", 1, "line 4: product thermostat has no group 'nogroup'"),
        ("wrong-3,Pi 4,", 2, "line 4: hardware model 'Pi 4' is not an id"),
    ):
        tokens = len(office.json("token", "list"))
        path = listed(office, "wrong", "wrong-1,,", "wrong-2,,", line)
        answer = office.call("device", "enrol", "--from", path, "--out", out, expect=code)
        assert why in answer.err
        assert not out.exists() or not list(out.rglob("*"))
        assert len(office.json("token", "list")) == tokens
        assert not [row for row in office.json("device", "list") if row["device_id"].startswith("wrong-")]


def test_a_list_of_codes(office: Office) -> None:
    path, out = listed(office, "codes", "code-1,,", "code-2,,"), office.directory / "codes"
    office.call("device", "enrol", "--from", path, "--out", out, "--code-only", "--expires", "30d")
    codes = {code_in(out / name / "enrolment-code").token for name in ("code-1", "code-2")}
    assert len(codes) == 2
    bound = {row["device_id"]: row for row in office.json("token", "list")}
    assert {bound[name]["uses_left"] for name in ("code-1", "code-2")} == {1}


def test_the_devices_authority_is_changed_and_nobody_is_cut_off_before(own_office: Office) -> None:
    office = own_office
    office.call("device", "enrol", "old-1")
    old = context_of(office.directory / "old-1")
    office.call("ca", "rotate", "devices", "--yes")
    office.call("device", "enrol", "new-1")
    new = context_of(office.directory / "new-1")
    wait_until(lambda: is_let_in(office, "new-1", new), timeout_s=10, what="the broker's trust in the new authority")
    assert is_let_in(office, "old-1", old)
    assert office.json("ca", "list", "--needed-by", "devices-1") == [{"device_id": "old-1"}]
    assert "still need the old authority" in office.call("ca", "retire", "devices", "--yes", expect=5).err
    office.call("device", "enrol", "old-1", "--directory", "moved", "--again")
    (left,) = office.json("ca", "retire", "devices", "--yes")
    assert (left["name"], left["needed_by"]) == ("devices-2", 2)
    moved = context_of(office.directory / "moved")
    wait_until(lambda: not is_let_in(office, "old-1", old), timeout_s=10, what="the old certificate's refusal")
    for name, context in (("old-1", moved), ("new-1", new)):
        wait_until(lambda: is_let_in(office, name, context), timeout_s=10, what=f"{name}'s return")  # noqa: B023


def test_the_services_authority_is_changed_and_the_home_follows(own_office: Office) -> None:
    office = own_office
    office.call("device", "enrol", "dev-1")
    knows_old = context_of(office.directory / "dev-1")
    office.call("ca", "rotate", "services", "--yes")
    bundle = office.home / "operator" / "ca.crt"
    assert bundle.read_text().count("BEGIN CERTIFICATE") == 2
    assert is_let_in(office, "dev-1", knows_old)
    assert code_is_of(office, "services-1")
    assert "dev-1" in office.call("ca", "retire", "services", "--yes", expect=5).err
    rotated_s = time.time()  # certificates tell time in whole seconds: who enrols within one may not have heard of it
    wait_until(lambda: time.time() > rotated_s + 1, what="the next second")
    office.call("device", "enrol", "dev-1", "--directory", "informed", "--again")
    office.call("ca", "retire", "services", "--yes")
    assert bundle.read_text().count("BEGIN CERTIFICATE") == 1
    wait_until(lambda: office.run("ca", "list").code == 0, what="the server's certificate of the new authority")
    informed = context_of(office.directory / "informed")
    wait_until(lambda: is_let_in(office, "dev-1", informed), what="the broker's certificate of the new authority")
    with (
        socket.create_connection(("127.0.0.1", office.broker_port)) as connection,
        pytest.raises(ssl.SSLCertVerificationError),
        knows_old.wrap_socket(connection, server_hostname="127.0.0.1"),
    ):
        pass
    assert code_is_of(office, "services-2")
    bundle.write_text("")
    assert office.call("token", "create", expect=2).out == ""


def code_is_of(office: Office, authority: str) -> bool:
    """Whether a code made now names this authority."""
    code = EnrolmentCode.parse(office.call("token", "create").out)
    (named,) = (row["sha256"] for row in office.json("ca", "list") if row["name"] == authority)
    return code.ca_sha256 == str(named)
