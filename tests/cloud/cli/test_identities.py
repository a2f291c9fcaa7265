"""The key that an enrolment begins with: made once, used again after a cut, and never silently another one."""

import stat
from contextlib import closing
from pathlib import Path

import pytest

from cloud.cli.client import ApiClient, UnreachableError
from cloud.cli.identities import NEXT_KEY, make_identity
from protocol.enrolment import EnrolmentCode
from protocol.errors import UserError
from tests.support.brokers import free_port

CODE = EnrolmentCode(token="A" * 22, root_sha256="0" * 64, ca_sha256="1" * 64)
SHORT = (
    b"-----BEGIN PRIVATE KEY-----\n"
    b"MC4CAQAwBQYDK2VvBCIEIHOLHGIt+narE1pZ6AEh7TMhiA0KfKF7U/hgvHY6g7Hr\n"
    b"-----END PRIVATE KEY-----\n"
)


def enrol(directory: Path) -> None:
    """Ask a server that is not there."""
    with closing(ApiClient(f"http://127.0.0.1:{free_port()}", "t")) as api:
        make_identity(api, directory, CODE, "pi-1", "model-a", server="https://ota.example")


def test_the_key_of_an_enrolment_that_was_cut_off_is_used_again(tmp_path: Path) -> None:
    key = tmp_path / NEXT_KEY
    with pytest.raises(UnreachableError):
        enrol(tmp_path)
    content = key.read_bytes()
    with pytest.raises(UnreachableError):
        enrol(tmp_path)
    assert key.read_bytes() == content
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nMC4CAQ", id="half of one"),
        pytest.param(SHORT, id="of another kind, and garbled"),
        pytest.param(b"\xff" * 200, id="no text"),
    ],
)
def test_a_file_that_is_no_key_is_a_sentence_and_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NEXT_KEY).write_bytes(content)
    with pytest.raises(UserError, match="is not the private key") as refused:
        enrol(tmp_path)
    assert not isinstance(refused.value, UnreachableError), "the server was asked"
    assert str(tmp_path / NEXT_KEY) in str(refused.value)
    assert "MC4CAQ" not in str(refused.value)
    assert (tmp_path / NEXT_KEY).read_bytes() == content
