"""The three commands, as the public suite calls them: what they fetch, keep, refuse, and say by their exit code."""

import json
import stat
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from tests.conformance.conftest import Client, Served
from tests.device_agent.trust.device import DAY_S


def version(client: Client, role: str) -> int:
    found: int = Metadata.from_file(str(client.metadata / f"{role}.json")).signed.version
    return found


def test_init_asks_nobody_and_refresh_asks_for_what_it_lacks_in_order(client: Client, served: Served) -> None:
    assert served.asked == []
    assert client.refresh() == 0
    names = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert served.asked == [f"/metadata/{name}" for name in names]
    for role, name in {"timestamp": "timestamp", "snapshot": "1.snapshot", "targets": "1.targets"}.items():
        assert (client.metadata / f"{role}.json").read_bytes() == served.repository.files[f"{name}.json"]
    assert version(client, "root") == 1
    assert stat.S_IMODE(client.metadata.stat().st_mode) == 0o700


def test_without_init_nothing_is_asked(tmp_path: Path, served: Served) -> None:
    client = Client(tmp_path, served)
    assert client.refresh() == 1
    assert "init" in client.said
    assert served.asked == []


def test_a_command_line_that_is_wrong(client: Client, served: Served) -> None:
    assert client.run("refresh") == 2
    assert "--metadata-url" in client.said
    assert client.run("init", str(client.root.with_name("not there"))) == 2
    assert served.asked == []


def test_an_initial_root_that_is_none_asks_for_nothing(tmp_path: Path, served: Served) -> None:
    client = Client(tmp_path, served)
    fields = json.loads(served.repository.bootstrap)
    fields["signatures"] = []
    client.root.write_text(json.dumps(fields))
    client.init()
    assert client.refresh() == 1
    assert served.asked == []


def test_roots_are_followed_one_by_one_and_a_root_that_the_old_keys_did_not_sign_is_not(
    client: Client, served: Served
) -> None:
    served.repository.rotate_root()
    served.repository.rotate_online_key()
    assert client.refresh() == 0
    assert version(client, "root") == 3
    made = served.repository
    old, made.root_signers = made.root_signers, made.root_signers[:1]
    made.publish_root()
    assert client.refresh() == 1
    assert version(client, "root") == 3
    made.root_signers = old


def test_what_expired_is_refused(client: Client, served: Served) -> None:
    assert client.refresh() == 0
    client.now_s += 2 * DAY_S
    assert client.refresh() == 1
    assert "expired" in client.said.lower()
    served.repository.now_s = client.now_s
    served.repository.publish()
    assert client.refresh() == 0


def test_a_rollback_is_refused(client: Client, served: Served) -> None:
    old = dict(served.repository.files)
    served.repository.publish()
    assert client.refresh() == 0
    newest = served.repository.files
    served.repository.files = old
    assert client.refresh() == 1
    assert (version(client, "timestamp"), version(client, "snapshot")) == (2, 2)
    served.repository.files = newest
    assert client.refresh() == 0


def test_a_repository_that_is_away_is_no_repository_without_news(client: Client, served: Served) -> None:
    assert client.refresh() == 0
    served.close()
    served._server.server_close()
    assert client.refresh() == 1


def test_a_target_is_downloaded_once_and_again_when_it_changes(client: Client, served: Served) -> None:
    served.add_target("releases/image.bin", b"one" * 100_000)  # several chunks
    served.repository.publish()
    assert client.download("releases/image.bin") == 0
    assert client.downloaded() == [b"one" * 100_000]
    asked = len(served.asked)
    assert client.download("releases/image.bin") == 0
    assert not [path for path in served.asked[asked:] if path.startswith("/targets/")]
    served.add_target("releases/image.bin", b"two")
    served.repository.publish()
    assert client.download("releases/image.bin") == 0
    assert client.downloaded() == [b"two"]


def test_what_is_tampered_with_or_absent_is_not_stored(client: Client, served: Served) -> None:
    served.add_target("image.bin", b"the image")
    served.repository.publish()
    (name,) = served.targets
    for content in (b"the imagf", b"the image and more", b"the", b""):
        served.targets[name] = content
        assert client.download("image.bin") == 1
    del served.targets[name]
    assert client.download("image.bin") == 1
    assert client.download("nobody signed this") == 1
    assert client.downloaded() == []


def test_delegations_are_followed_and_what_is_not_delegated_is_not_found(client: Client, served: Served) -> None:
    served.add_target("thermostat/app/1.0.0", b"firmware", role="thermostat")
    served.add_target("pump/app/1.0.0", b"somebody else's", role="thermostat")
    served.repository.publish()
    assert client.download("pump/app/1.0.0") == 1
    assert client.download("thermostat/app/1.0.0") == 0
    assert client.downloaded() == [b"firmware"]
    assert version(client, "thermostat") == 2


@pytest.mark.parametrize("name", ["../../up", "..", "/top", "a/../../up", "c%2f..%2fup", "n" * 300, "ein Bild.bin"])
def test_the_name_of_a_target_is_never_a_path(client: Client, served: Served, name: str, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(client.metadata)}
    served.add_target(name, b"content")
    served.repository.publish()
    client.download(name)
    after = {path for path in tmp_path.rglob("*") if not path.is_relative_to(client.metadata)}
    assert all(path.parent == client.downloads for path in after - before)
    assert set(client.downloaded()) <= {b"content"}
    if "%" not in name:  # what is quoted already means another path to this server
        assert client.downloaded() == [b"content"]
