"""The ClientHello by hand: real libraries understand it, and no answer confuses it."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.doctor.hello import VERSIONS, chosen_version, client_hello, offers
from tests.support.certificates import Fleet

HOST = "127.0.0.1"


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, {"TLS 1.2"}),
        (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3, {"TLS 1.3"}),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, {"TLS 1.2", "TLS 1.3"}),
    ],
)
def test_it_tells_which_versions_a_real_server_takes(
    tmp_path: Path, least: ssl.TLSVersion, most: ssl.TLSVersion, expected: set[str]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Fleet(tmp_path).files.server_file)
    context.minimum_version, context.maximum_version = least, most
    with socket.create_server((HOST, 0)) as listening:
        serving = threading.Thread(target=_serve, args=(listening, context, len(VERSIONS)))
        serving.start()
        port = listening.getsockname()[1]
        taken = {name for name, version in VERSIONS.items() if offers(HOST, port, version, timeout_s=10)}
        serving.join()
    assert taken == expected


def _serve(listening: socket.socket, context: ssl.SSLContext, times: int) -> None:
    for _ in range(times):
        opened, _peer = listening.accept()
        with opened:
            secured = context.wrap_socket(opened, server_side=True, do_handshake_on_connect=False)
            with secured:
                try:
                    secured.do_handshake()
                except (ssl.SSLError, OSError):
                    continue


@pytest.mark.parametrize(
    "answer", [b"", b"\x15\x03\x03\x00\x02\x02\x46", b"\x20\x02\x00\x00", b"HTTP/1.1 400 Bad Request"]
)
def test_another_answer_is_no_version(answer: bytes) -> None:
    with socket.create_server((HOST, 0)) as listening:

        def serve() -> None:
            opened, _peer = listening.accept()
            with opened:
                opened.recv(10_000)
                opened.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        assert not offers(HOST, listening.getsockname()[1], VERSIONS["TLS 1.2"], timeout_s=10)
        serving.join()


def test_nobody_there_is_an_error() -> None:
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        offers(HOST, port, VERSIONS["TLS 1.2"], timeout_s=10)


def test_a_name_is_told_and_an_address_is_not() -> None:
    assert b"broker.test" in client_hello("broker.test", VERSIONS["TLS 1.3"])
    assert b"127.0.0.1" not in client_hello("127.0.0.1", VERSIONS["TLS 1.3"])


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\x16\x03\x03\x00\x60\x02" + tail))
def test_no_bytes_confuse_it(data: bytes) -> None:
    version = chosen_version(data)
    assert version is None or 0 <= version <= 0xFFFF
