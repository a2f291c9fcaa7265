"""The link over TLS, to a real Mosquitto that requires certificates: who gets in, and what is said to who does not."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from cloud.broker import EmbeddedBroker, Secured
from cloud.pki.authorities import Authorities
from cloud.pki.issuing import key_pem, make_certificate, new_key
from cloud.roles import utc_now
from device_agent.clock import DeviceClock
from device_agent.tls import DeviceContext, verifying_context
from tests.support.certificates import LOOPBACK_NAMES, Fleet, Identity
from tests.support.linking import TIMEOUT_S, Owner, Resetting, start
from tests.support.processes import wait_until

pytestmark = pytest.mark.broker


class Site:
    """A fleet with its broker, and the device `dev-1`, whose clock can be set."""

    def __init__(self, fleet: Fleet, broker: EmbeddedBroker) -> None:
        self.fleet, self.broker = fleet, broker
        self.owners: list[Owner] = []
        self.identity: Identity | None = fleet.device("dev-1")
        self.wall: Callable[[], float] = time.time
        self.floor_s = 0.0
        self.connects = 0
        self.clock = DeviceClock(lambda: self.floor_s, wall=self._wall)
        self.authorities = fleet.authorities

    def _wall(self) -> float:
        return self.wall()

    def context(self) -> DeviceContext:
        self.connects += 1
        certificate = self.identity.path if self.identity is not None else None
        return verifying_context(self.authorities.trusted("services").decode(), self.clock, certificate)

    def connect(self, host: str = "127.0.0.1", **settings: object) -> Owner:
        return start(self.owners, f"mqtts://{host}:{self.broker.port}", tls=self.context, **settings)

    def reload(self) -> None:
        """Have the broker read its files; returns when it does."""
        self._reloaded(self.fleet.files.reload)

    def revoke(self, identity: Identity) -> None:
        self._reloaded(lambda: self.fleet.revoke(identity))

    def _reloaded(self, change: Callable[[], object]) -> None:
        def reloads() -> int:
            return self.broker.log_path.read_text().count("Reloading config")

        before = reloads()
        change()
        wait_until(lambda: reloads() > before, TIMEOUT_S, "the broker's reading of its files")

    @staticmethod
    def expect(owner: Owner, kind: str) -> object:
        """Wait for an event, but for denials: the owner of these links writes where no device may."""
        while (event := owner.events.get(timeout=TIMEOUT_S))[0] == "denied":
            pass
        assert event[0] == kind, event
        return event[1]

    def refused(self, what: str, owner: Owner | None = None) -> Owner:
        """Connect, and wait until the link says that it cannot, because of `what`."""
        owner = owner or self.connect()
        wait_until(lambda: what in (owner.link.problem or ""), TIMEOUT_S, what)
        assert not owner.link.is_up
        return owner


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    directory = tmp_path / "fleet"
    directory.mkdir()
    return Fleet(directory)


@pytest.fixture
def site(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Site]:
    with EmbeddedBroker(fleet.files.directory, secured=Secured(tls=fleet.cloud)) as broker:
        site = Site(fleet, broker)
        yield site
        for owner in site.owners:
            owner.link.stop(timeout_s=1)
        request.node.add_report_section("teardown", "broker log", broker.log_tail(60))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_device_with_a_certificate_gets_in(site: Site, host: str) -> None:
    owner = site.connect(host)
    site.expect(owner, "up")
    assert (owner.link.mqtt_version, owner.link.problem) == ("5", None)


def test_a_broker_of_another_fleet_is_not_spoken_to(site: Site, tmp_path: Path) -> None:
    site.authorities = Authorities.create(tmp_path / "other-ca")
    site.refused("from an authority that this device does not know")


def test_a_broker_with_another_name_is_not_spoken_to(site: Site) -> None:
    site.fleet.renew_server(("elsewhere.example",))
    site.reload()
    site.refused("for another host")


def test_a_broker_whose_certificate_has_expired_is_not_spoken_to_until_it_is_renewed(site: Site) -> None:
    site.fleet.expire_server()
    site.reload()
    owner = site.refused("has expired, or this device's clock is wrong (it says 20")
    site.fleet.renew_server()
    site.reload()
    site.expect(owner, "up")


def test_a_device_without_a_certificate_is_told_so(site: Site) -> None:
    site.identity = None
    site.refused("does not accept this device's certificate: there is none")


def test_a_certificate_that_ended_is_told_so(site: Site) -> None:
    site.identity = site.fleet.device("dev-1", lifetime=timedelta(seconds=-1))
    site.refused("does not accept this device's certificate: it has expired")


def test_a_certificate_of_another_fleet_is_told_so(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    site.identity = Fleet(tmp_path / "other").device("dev-1")
    site.refused("does not accept this device's certificate: it is from an authority that the server does not trust")


def test_a_revoked_device_is_told_so_once_and_keeps_trying_rarely(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert site.identity is not None
    site.revoke(site.identity)
    with caplog.at_level(logging.INFO, "device_agent.link"):
        owner = site.connect(backoff_max_s=0.05, refused_backoff_max_s=0.2)
        site.refused("does not accept this device's certificate: it is revoked", owner)
        connects = site.connects
        wait_until(lambda: site.connects >= connects + 3, TIMEOUT_S, "three more tries")
    assert len([record for record in caplog.records if "no link to the broker" in record.getMessage()]) == 1
    assert owner.link._delay_s(20, refused=True) > 4 * 0.05 * 0.25
    # Let in again, it comes by itself.
    site.fleet.revoked.clear()
    site.fleet.write_access()
    site.reload()
    site.expect(owner, "up")


def test_a_refusal_that_a_reset_overtakes_is_the_same_refusal(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    for context in contexts:
        context.load_cert_chain(fleet.files.server_file)
    contexts[0].load_verify_locations(cadata=Fleet(tmp_path / "other").authorities.trusted("devices").decode())
    contexts[0].verify_mode = ssl.CERT_REQUIRED
    owners: list[Owner] = []
    trusted, identity = fleet.authorities.trusted("services").decode(), fleet.device("dev-1")
    with Resetting(*contexts) as broker, caplog.at_level(logging.WARNING, "device_agent.link"):
        clock = DeviceClock(lambda: 0.0, wall=time.time)
        owner = start(owners, broker.url, tls=lambda: verifying_context(trusted, clock, identity.path))
        wait_until(lambda: broker.ended >= 6, TIMEOUT_S, "six refusals")
        assert "an authority that the server does not trust" in (owner.link.problem or "")
        owner.link.stop(timeout_s=5)
    assert len([record for record in caplog.records if "no link to the broker" in record.getMessage()]) == 1


def test_a_revoked_device_is_cut_off_and_comes_no_more(site: Site) -> None:
    assert site.identity is not None
    owner = site.connect()
    site.expect(owner, "up")
    site.revoke(site.identity)
    owner.link.publish("anything", b"")
    owner.link.reconnect()
    site.expect(owner, "down")
    site.refused("it is revoked", owner)


@pytest.mark.parametrize("year", [1970, 2020])
def test_a_clock_that_is_behind_for_sure_keeps_nobody_out(site: Site, year: int) -> None:
    site.wall = lambda: (year - 1970) * 365.25 * 86_400
    assert site.clock.is_behind
    site.expect(site.connect(), "up")


def test_a_clock_that_is_behind_still_knows_what_ended_before_its_floor(site: Site) -> None:
    site.wall = lambda: 0.0
    site.fleet.expire_server()
    site.reload()
    site.floor_s = time.time() + 60.0
    site.refused("has expired, or this device's clock is wrong")


def test_a_clock_that_is_behind_does_not_open_the_door_to_others(site: Site, tmp_path: Path) -> None:
    site.wall = lambda: 0.0
    site.authorities = Authorities.create(tmp_path / "other-ca")
    site.refused("from an authority that this device does not know")


def test_a_clock_that_lags_behind_the_brokers_certificate_is_found_out(site: Site) -> None:
    """OpenSSL has the machine's clock: so here it is the certificate that is ahead."""
    serve_from(site.fleet, utc_now() + timedelta(days=3))
    site.reload()
    assert not site.clock.is_behind
    site.expect(site.connect(), "up")
    assert site.clock.is_behind


def test_a_certificate_of_strangers_does_not_make_the_clock_doubted(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Fleet(tmp_path / "other")
    serve_from(other, utc_now() + timedelta(days=3))
    site.fleet.files.server_file.write_bytes(other.files.server_file.read_bytes())
    site.reload()
    site.refused("from an authority that this device does not know")
    assert not site.clock.is_behind


def serve_from(fleet: Fleet, begin: datetime) -> None:
    """Give the broker a certificate that is valid from then on."""
    authority = load_pem_x509_certificate(fleet.authorities.trusted("services"))
    authority_key = load_pem_private_key((fleet.directory / "ca" / "services-1.key").read_bytes(), None)
    assert isinstance(authority_key, EllipticCurvePrivateKey)
    key = new_key()
    certificate = make_certificate(
        authority,
        authority_key,
        key.public_key(),
        "broker",
        names=LOOPBACK_NAMES,
        server=True,
        now=begin,
        lifetime=timedelta(days=365),
    )
    fleet.files.server_file.write_bytes(key_pem(key) + certificate.public_bytes(Encoding.PEM))


def test_a_new_certificate_is_used_at_once_when_it_is_asked_for(site: Site) -> None:
    owner = site.connect(backoff_min_s=60.0, backoff_max_s=120.0)
    site.expect(owner, "up")
    first = site.identity
    assert first is not None
    site.identity = site.fleet.device("dev-1")
    owner.link.reconnect()
    assert "certificate of now" in str(site.expect(owner, "down"))
    site.expect(owner, "up")
    # The old one is needed no more.
    site.fleet.authorities.crl([first.revoked])
    assert owner.link.is_up


def test_a_device_that_waits_to_try_again_tries_at_once_with_a_new_certificate(site: Site) -> None:
    good, site.identity = site.identity, None
    owner = site.connect(backoff_min_s=600.0, backoff_max_s=600.0, refused_backoff_max_s=600.0)
    site.refused("there is none", owner)
    site.identity = good
    owner.link.reconnect()
    site.expect(owner, "up")


def test_files_that_cannot_be_read_are_told_and_read_again(site: Site, tmp_path: Path) -> None:
    good = site.identity
    assert good is not None
    site.identity = Identity("dev-1", tmp_path / "missing.pem", good.issued)
    owner = site.refused("missing.pem has no key and certificate that fit each other")
    site.identity = good
    site.expect(owner, "up")
