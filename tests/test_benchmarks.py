"""What `make bench` compares goes over TLS on both sides, as in production."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.run import download, find, served_by_nginx
from cloud.pki.authorities import Authorities
from tests.support.brokers import missing_service


def test_the_yardstick_is_fetched_over_https_from_a_server_that_is_known(tmp_path: Path) -> None:
    if find("nginx") is None or find("curl") is None:
        missing_service("nginx or curl is not installed")
    with served_by_nginx(tmp_path) as (address, authority):
        (tmp_path / "www" / "image").write_bytes(b"image")
        url = f"{address}/image"
        assert url.startswith("https://")
        assert download(url, authority, tmp_path / "downloaded").seconds > 0
        stranger = tmp_path / "stranger.crt"
        stranger.write_bytes(Authorities.create(tmp_path / "strangers").trusted("services"))
        with pytest.raises(subprocess.CalledProcessError):
            download(url, stranger, tmp_path / "downloaded")
        plain = subprocess.run(
            [str(find("curl")), "-sSf", url.replace("https:", "http:")], capture_output=True, check=False
        )
        assert plain.returncode != 0
        assert b"image" not in plain.stdout
