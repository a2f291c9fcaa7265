"""Devices revoked, certificates renewed, authorities changed: the broker follows, and nobody else notices."""

import socket
import time

import pytest

from cloud.broker import HOST
from cloud.doctor.visitor import RefusedError
from cloud.pki.issuing import CLOUD_NAME
from tests.cloud.sites import (
    CANARY,
    NOT_AUTHORIZED,
    TOPICS,
    Site,
    eventually_open,
    eventually_refused,
    site,
)

__all__ = ["site"]
pytestmark = pytest.mark.broker


def test_a_revoked_device_is_silent_at_once_both_ways_and_not_let_in_again_and_nobody_else_notices(site: Site) -> None:
    revoked, other = site.fleet.device("pi-1"), site.fleet.device("pi-2")
    with site.visit(revoked).open() as silenced, site.visit(other).open() as device, site.cloud() as cloud:
        cloud.subscribe(TOPICS.all_up())
        silenced.subscribe(TOPICS.all_down("pi-1"), f"{TOPICS.root}/b/+")
        device.subscribe(TOPICS.all_down("pi-2"), f"{TOPICS.root}/b/+")
        assert silenced.publish(TOPICS.up("pi-1", "hello"), b"before") == 0
        assert cloud.until(TOPICS.up("pi-1", "hello"), b"before") == []
        began = time.monotonic()
        site.fleet.revoke(revoked)
        while silenced.publish(TOPICS.up("pi-1", "hello"), b"x") != NOT_AUTHORIZED:
            assert time.monotonic() - began < 5
        silent_after_s = time.monotonic() - began
        with pytest.raises(RefusedError):
            site.visit(revoked).open()
        refused_after_s = time.monotonic() - began
        assert max(silent_after_s, refused_after_s) < 5, (silent_after_s, refused_after_s)
        cloud.publish(TOPICS.down("pi-1", "desired"), b"not for thieves")
        cloud.publish(TOPICS.chunks("ab" * 32), b"chunk")
        assert device.until(TOPICS.chunks("ab" * 32), b"chunk") == []
        silenced.subscribe("nothing")  # an answer after which whatever was to come would have come
        assert silenced._heard.empty()
        device.publish(TOPICS.up("pi-2", "state"), b"undisturbed")
        assert [heard for heard in cloud.until(TOPICS.up("pi-2", "state")) if heard.payload != b"x"] == []
        again = site.fleet.device("pi-2")  # certified anew, as after a renewal
        with site.visit(again).open():
            pass


def test_certificates_and_authorities_change_while_everybody_stays(site: Site) -> None:
    fleet = site.fleet
    old = fleet.device("pi-1")
    with site.visit(old).open() as staying, site.cloud() as cloud:
        staying.subscribe(TOPICS.all_down("pi-1"))
        fleet.authorities.rotate("devices")
        fleet.renew_server()
        assert fleet.write_access()
        served = _served(site)
        assert fleet.files.reload()
        new = fleet.device("pi-2")
        assert new.issued.authority == "devices-2"
        eventually_open(site.visit(new))
        with site.visit(fleet.device("pi-3")).open():
            assert _served(site) != served, "the broker still shows its old certificate"
        cloud.publish(CANARY, b"canary")
        assert staying.until(CANARY, b"canary") == []
        fleet.authorities.retire("devices")
        assert fleet.write_access()
        assert fleet.files.reload()
        eventually_refused(site.visit(old, client_id="pi-1"))
        site.visit(new).open().close()
        cloud.publish(TOPICS.down("pi-2", "ack"), b"")
        assert cloud.closed_with is None


def test_the_server_comes_in_by_a_new_authority_without_a_restart_of_the_broker(site: Site) -> None:
    fleet = site.fleet
    with site.cloud() as staying:
        fleet.authorities.rotate("services")
        fleet.authorities.retire("services")
        fleet.write_access()
        fleet.renew_server()
        assert fleet.cloud.certificate is not None
        fleet.cloud.certificate.write_bytes(fleet.authorities.issue_service(CLOUD_NAME, (), server=False))
        fleet.files.reload()
        eventually_open(site.cloud_visit("fleetlift.again"))
        assert staying.publish(CANARY, b"undisturbed") == 0


def _served(site: Site) -> bytes | None:
    context = site.fleet.context(None)
    with (
        socket.create_connection((HOST, site.broker.port)) as opened,
        context.wrap_socket(opened, server_hostname="localhost") as secured,
    ):
        return secured.getpeercert(binary_form=True)
