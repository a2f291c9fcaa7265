"""The settings files: a typo names file, line and key, and where nothing is said the defaults hold."""

from pathlib import Path

import pytest

from cloud.config import (
    BrokerAddress,
    Home,
    OperatorContext,
    Settings,
    check_encrypted,
    load_context,
    load_settings,
    parse_broker_url,
)
from protocol.errors import UserError


def test_a_missing_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "fleetlift.toml") == Settings()
    assert load_context(tmp_path / "context.toml") == OperatorContext()


def test_every_value_given_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "fleetlift.toml"
    path.write_text(
        '[server]\nhost = "0.0.0.0"\nport = 9000\npublic_url = "https://ota.example/"\n'
        '[broker]\nurl = "mqtt://localhost"\ntopic_root = "ota/v1"\n[devices]\njoining = "known"\n'
    )
    settings = load_settings(path)
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 9000)  # noqa: S104 - nothing is bound
    assert settings.server.public_url == "https://ota.example"
    assert settings.broker.url == "mqtt://localhost"
    assert settings.broker.topic_root == "ota/v1"
    assert settings.devices.joining == "known"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[server]\n\nprot = 1\n", 3, "'server.prot' is not known (did you mean 'port'?)"),
        ("# a comment\n[brocker]\nurl = 'mqtt://a'\n", 2, "'brocker' is not known (did you mean 'broker'?)"),
        ("[server]\nport = 1\n[storage]\nport = 1\n", 4, "'storage.port' is not known (known here: blobs, database"),
        ('[server]\nport = "80"\n', 2, "the key 'server.port': input should be a valid integer"),
        ("[server]\nport = 70000\n", 2, "the key 'server.port': input should be less than or equal to 65535"),
        ("[broker]\nurl = 'http://a'\n", 2, "the key 'broker.url': 'http://a' is not mqtt://host"),
        ("[broker]\ntopic_root = 'a/b/c'\n", 2, "the key 'broker.topic_root': topic root"),
        ("[devices]\njoining = 'opne'\n", 2, "the key 'devices.joining': input should be 'open' or 'known'"),
        ("[server]\nport = \n", 2, "at the key 'port': not TOML"),
        ("[server]\nport = " + "9" * 5000, 2, "not TOML"),
        ("[server]\nport = " + "[" * 5000, 2, "not TOML"),
        ("[server]\nport = 1\nport = 2\n", 3, "at the key 'port': not TOML: Cannot overwrite a value"),
        ("server = 1\n", 1, "the key 'server'"),
        ("server.prot = 1\n", 1, "'server.prot' is not known"),
    ],
)
def test_a_mistake_names_file_line_and_key(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = tmp_path / "fleetlift.toml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        load_settings(path)
    assert str(refused.value).startswith(f"{path}, line {line}: ")
    assert says in str(refused.value)
    assert "Nothing was started or changed" in str(refused.value)


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "fleetlift.toml"
    path.write_bytes(b"[server]\nhost = '\xff'\n")
    with pytest.raises(UserError, match="line 2: the text is not UTF-8"):
        load_settings(path)


def test_a_home_is_chosen_by_option_then_variable_then_the_directory_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEETLIFT_HOME", raising=False)
    assert Home.choose().root == tmp_path / "fleetlift-home"
    monkeypatch.setenv("FLEETLIFT_HOME", str(tmp_path / "elsewhere"))
    assert Home.choose().root == tmp_path / "elsewhere"
    assert Home.choose(Path("third")).root == tmp_path / "third"
    assert Home.choose().storage_path("blobs") == tmp_path / "elsewhere" / "cloud" / "blobs"
    assert Home.choose().storage_path("/data/blobs") == Path("/data/blobs")


def test_broker_urls() -> None:
    assert parse_broker_url("mqtts://broker.test") == BrokerAddress("broker.test", 8883, tls=True)
    assert parse_broker_url("mqtts://10.0.0.1:8884") == BrokerAddress("10.0.0.1", 8884, tls=True)
    assert parse_broker_url("mqtt://127.0.0.2:1884") == BrokerAddress("127.0.0.2", 1884)
    assert parse_broker_url("mqtt://localhost") == BrokerAddress("localhost", 1883)
    assert parse_broker_url("mqtt://[::1]") == BrokerAddress("::1", 1883)
    for wrong in (
        "mqtts://",
        "tcp://a",
        "mqtts://u:p@a",
        "mqtts://a/b",
        "mqtts://a:x",
        "mqtts://a:99999",
        "mqtts://a#b",
    ):
        with pytest.raises(ValueError, match=r"mqtt|[Pp]ort"):
            parse_broker_url(wrong)


def test_plain_mqtt_does_not_leave_the_machine() -> None:
    for host in ("broker.test", "10.0.0.1", "[::]", "localhost.test", "127.0.0.1.test"):
        with pytest.raises(ValueError, match="only mqtts:// leaves this machine"):
            check_encrypted(f"mqtt://{host}:1883")
    for url in ("mqtt://127.0.0.1", "mqtt://localhost:1", "mqtt://[::1]", "mqtts://broker.test"):
        check_encrypted(url)
