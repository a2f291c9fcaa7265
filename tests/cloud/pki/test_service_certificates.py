"""The server's own certificates are there, and anew before they end, when they must change, and then only."""

import ssl
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud.config import Home
from cloud.pki.authorities import Authorities
from cloud.pki.requests import CertificateError
from cloud.pki.service_certificates import renew_due
from tests.cloud.pki.requesting import shake_hands, strict

NAMES = ("localhost", "127.0.0.1")


class House:
    def __init__(self, home: Home) -> None:
        self.home, self.now = home, datetime.now(UTC)
        self.authorities = Authorities.create(home.ca, now=lambda: self.now)

    def renew(self, names: Sequence[str] = NAMES) -> set[str]:
        """Renew what is due and return which files changed."""
        before = self.files()
        told = renew_due(self.home, self.authorities, names, self.now, broker=self.home.broker)
        after = self.files()
        changed = {path.name for path, content in after.items() if before.get(path) != content}
        assert told is bool(changed)
        return changed

    def files(self) -> dict[Path, bytes]:
        directories = (self.home.tls, self.home.broker)
        return {path: path.read_bytes() for directory in directories for path in directory.glob("*")}


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(Home(tmp_path))
    assert house.renew() == {"services-ca.crt", "api.pem", "cloud.pem", "server.pem"}
    return house


def test_the_servers_are_known_by_their_names_and_the_cloud_by_its_own(house: House) -> None:
    bundle = (house.home.tls / "services-ca.crt").read_bytes()
    cloud = strict(ssl.Purpose.SERVER_AUTH, house.home.tls / "cloud.pem", bundle)
    for server, said in (
        (house.home.tls / "api.pem", "fleetlift api"),
        (house.home.broker / "server.pem", "fleetlift broker"),
    ):
        context = strict(ssl.Purpose.CLIENT_AUTH, server, bundle)
        assert [shake_hands(context, cloud, name) for name in NAMES] == [("fleetlift.cloud", said)] * 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in house.files()} == {0o600}


def test_they_serve_two_thirds_of_their_life(house: House) -> None:
    house.now += timedelta(days=242)
    assert house.renew() == set()
    house.now += timedelta(days=2)
    assert house.renew() == {"api.pem", "cloud.pem", "server.pem"}
    assert house.renew() == set()


def test_other_names_make_other_server_certificates(house: House) -> None:
    assert house.renew([*reversed(NAMES), "LOCALHOST"]) == set()
    assert house.renew([*NAMES, "fleet.example"]) == {"api.pem", "server.pem"}
    with pytest.raises(CertificateError):
        house.renew(["not a name"])


def test_what_is_lost_or_garbled_is_made_anew(house: House) -> None:
    (house.home.tls / "cloud.pem").unlink()
    (house.home.broker / "server.pem").write_bytes(b"half a file")
    assert house.renew() == {"cloud.pem", "server.pem"}


def test_a_new_authority_is_told_first_and_used_when_the_old_one_is_retired(house: House) -> None:
    house.authorities.rotate("services")
    assert house.renew() == {"services-ca.crt"}
    house.authorities.retire("services")
    assert house.renew() == {"services-ca.crt", "api.pem", "cloud.pem", "server.pem"}
    bundle = (house.home.tls / "services-ca.crt").read_bytes()
    context = strict(ssl.Purpose.CLIENT_AUTH, house.home.tls / "api.pem", bundle)
    assert shake_hands(context, strict(ssl.Purpose.SERVER_AUTH, house.home.tls / "cloud.pem", bundle), "localhost")


def test_the_brokers_certificate_is_renewed_where_the_broker_reads_it(tmp_path: Path) -> None:
    house, elsewhere = House(Home(tmp_path / "home")), tmp_path / "etc" / "broker"
    assert renew_due(house.home, house.authorities, NAMES, house.now, broker=elsewhere)
    first = (elsewhere / "server.pem").read_bytes()
    assert not house.home.broker.exists()
    house.now += timedelta(days=300)
    assert renew_due(house.home, house.authorities, NAMES, house.now, broker=elsewhere)
    assert (elsewhere / "server.pem").read_bytes() != first
