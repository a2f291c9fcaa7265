"""Enrolment, renewal, revocation and change of authorities over HTTP, as a device and an operator do them."""

import asyncio
import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.api.app import create_app
from cloud.api.enrolment import MAX_REQUEST_BYTES, Desk
from cloud.pki.authorities import Authorities
from cloud.values import OutboxKind
from protocol.enrolment import RENEWAL_CONTEXT, make_token
from tests.cloud.homes import MODEL, PRODUCT, Api, OpenHome, serve_api
from tests.cloud.pki.requesting import AnyKey, new_key, request

WISH = {"token": make_token(bytes(16)), "device_id": "pi-1", "hardware_model": MODEL, "csr": "-"}


@dataclass
class Fleet:
    """The API of a home with authorities, and a device's way to it, which has no bearer token."""

    api: Api
    device: Api
    authorities: Authorities

    def token(self, **facts: Any) -> str:
        text = make_token(secrets.token_bytes(16))
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.api("POST", "/enrolment-tokens", {"token_sha256": digest, "product": PRODUCT, **facts}, expect=201)
        return text

    def wish(self, token: str, device_id: str = "pi-1", key: AnyKey | None = None, **changes: Any) -> dict[str, Any]:
        csr = request(key or new_key()).decode()
        return {"token": token, "device_id": device_id, "hardware_model": MODEL, "csr": csr} | changes

    def enrol(self, token: str, device_id: str = "pi-1", key: AnyKey | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = self.device("POST", "/enrolment", self.wish(token, device_id, key), expect=201)
        return answer

    def refusal(self, body: dict[str, Any], path: str = "/enrolment", *, status: int = 403) -> str:
        return self.device.refusal("POST", path, body, status=status)[0]

    def renewal(self, certificate: str, present: AnyKey, following: AnyKey) -> dict[str, str]:
        csr = request(following)
        data = RENEWAL_CONTEXT + x509.load_pem_x509_csr(csr).public_bytes(Encoding.DER)
        return {
            "certificate": certificate,
            "csr": csr.decode(),
            "signature": base64.b64encode(sign(present, data)).decode(),
        }

    def broker_is_to_be_told(self) -> bool:
        outbox = self.api.home.store.outbox
        items = [item for item in outbox.take() if item.kind is OutboxKind.ACCESS]
        return bool(items) and all(outbox.settle(item) for item in items)


def sign(key: AnyKey, data: bytes) -> bytes:
    if isinstance(key, EllipticCurvePrivateKey):
        return key.sign(data, ECDSA(hashes.SHA256()))
    assert isinstance(key, Ed25519PrivateKey)
    return key.sign(data)


@pytest.fixture
def fleet(home: OpenHome) -> Iterator[Fleet]:
    if not home.home.ca.exists():
        Authorities.create(home.home.ca)
    with serve_api(home) as api, httpx.Client(base_url=api.http.base_url, trust_env=False) as stranger:
        assert api.backend.authorities is not None
        yield Fleet(api, Api(home, api.backend, stranger), api.backend.authorities)


def subject(pem: str) -> str:
    return x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string()


def test_anybody_may_ask_whom_to_trust(fleet: Fleet) -> None:
    trust = fleet.device("GET", "/enrolment/trust")
    assert trust["ca"].encode() == fleet.authorities.trusted("services")
    assert [text.encode() for text in trust["roots"]] == list(fleet.api.home.keyring.roots())


def test_a_device_enrols_with_a_token(fleet: Fleet) -> None:
    fleet.api("POST", "/groups", {"product": PRODUCT, "group": "hall"}, expect=201)
    token = fleet.token(groups=["hall"])
    answer = fleet.enrol(token)
    assert subject(answer["certificate"]) == "CN=pi-1"
    assert {name: answer[name] for name in ("device_id", "product", "broker_url", "topic_root")} == {
        "device_id": "pi-1",
        "product": PRODUCT,
        "broker_url": "mqtt://broker.test:1883",
        "topic_root": "fleetlift/v1",
    }
    assert answer["ca"].encode() == fleet.authorities.trusted("services")
    assert answer["certificate"].count("BEGIN") == 1
    assert answer["not_after_ms"] - answer["not_before_ms"] == pytest.approx(90 * 86_400_000, abs=600_000)
    device = fleet.api("GET", "/devices/pi-1")
    assert (device["groups"], device["revoked_at_ms"]) == (["hall", "everyone"], None)
    (certificate,) = fleet.api("GET", "/devices/pi-1/certificates")
    assert certificate["pem"] == answer["certificate"]
    audit = fleet.api("GET", "/audit?limit=1000")
    assert token not in json.dumps(audit)
    assert audit[-1]["action"] == "device.enrolled"


def test_each_refusal_has_its_code(fleet: Fleet) -> None:
    good = fleet.token(uses=5)
    other_key = new_key()
    fleet.enrol(good, "pi-taken", other_key)
    mine = fleet.token(device_id="pi-7")
    used = fleet.token()
    fleet.enrol(used, "pi-used")
    back = fleet.token(name="back")
    fleet.api("DELETE", "/enrolment-tokens/back")
    assert fleet.refusal(fleet.wish(make_token(bytes(16)))) == "unknown_token"
    assert fleet.refusal(fleet.wish(used)) == "token_used"
    assert fleet.refusal(fleet.wish(back)) == "token_revoked"
    assert fleet.refusal(fleet.wish(mine)) == "foreign_token"
    assert fleet.refusal(fleet.wish(good, hardware_model="toaster")) == "foreign_token"
    assert fleet.refusal(fleet.wish(good, "pi-taken"), status=409) == "name_taken"
    assert fleet.refusal(fleet.wish(good, "pi-8", other_key), status=409) == "key_taken"
    assert fleet.refusal(fleet.wish(good, csr="no request"), status=422) == "bad_csr"
    assert fleet.api("GET", "/enrolment-tokens")[-1]["uses_left"] == 4


@pytest.mark.parametrize(
    "change",
    [
        {"device_id": "pi/1"},
        {"device_id": "+"},
        {"device_id": "fleetlift.cloud"},
        {"device_id": ""},
        {"hardware_model": "#"},
        {"token": "short"},
        {"token": 7},
        {"csr": "x" * 9000},
        {"csr": None},
    ],
)
def test_names_and_bodies_that_are_none_are_refused(fleet: Fleet, change: dict[str, Any]) -> None:
    body = fleet.wish(fleet.token()) | change
    code, message = fleet.device.refusal("POST", "/enrolment", body, status=422)
    assert code == "bad_message"
    assert body["token"] == "short" or str(body["token"]) not in message
    assert fleet.api("GET", "/devices")["total"] == 0


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"token":"a","token":"b"}', b"[" * 5000])
def test_bytes_that_are_no_request_are_refused(fleet: Fleet, content: bytes) -> None:
    for path in ("/enrolment", "/enrolment/renewal"):
        fleet.device("POST", path, content=content, expect=422)


@pytest.mark.parametrize("make", [new_key, Ed25519PrivateKey.generate])
def test_a_device_renews_with_its_present_key(fleet: Fleet, make: Any) -> None:
    present, following = make(), make()
    first = fleet.enrol(fleet.token(), key=present)
    body = fleet.renewal(first["certificate"], present, following)
    second = fleet.device("POST", "/enrolment/renewal", body)
    assert subject(second["certificate"]) == "CN=pi-1"
    assert second["certificate"] != first["certificate"]
    again = fleet.renewal(first["certificate"], present, following)  # another signature, the same key
    assert fleet.device("POST", "/enrolment/renewal", again)["certificate"] == second["certificate"]
    third = fleet.renewal(second["certificate"], following, new_key())
    fleet.device("POST", "/enrolment/renewal", third)


def test_a_renewal_that_the_present_key_did_not_sign_is_refused(fleet: Fleet) -> None:
    present, thief = new_key(), new_key()
    first = fleet.enrol(fleet.token(), key=present)
    good = fleet.renewal(first["certificate"], present, new_key())

    def refused(body: dict[str, str], status: int = 403) -> str:
        return fleet.refusal(body, "/enrolment/renewal", status=status)

    assert refused(fleet.renewal(first["certificate"], thief, thief)) == "bad_signature"
    assert refused(good | {"csr": request(thief).decode()}) == "bad_signature"
    assert refused(good | {"signature": "!"}) == "bad_signature"
    assert refused(good | {"certificate": "none"}, 422) == "bad_csr"
    data = x509.load_pem_x509_csr(good["csr"].encode()).public_bytes(Encoding.DER)
    bare = base64.b64encode(sign(present, data)).decode()
    assert refused(good | {"signature": bare}) == "bad_signature"
    strange = fleet.authorities.issue_device(request(thief), "pi-1").pem.decode()  # signed here, and not recorded
    assert refused(fleet.renewal(strange, thief, new_key())) == "unknown_certificate"
    fleet.device("POST", "/enrolment/renewal", good)


def test_a_revoked_device_gets_nothing_until_it_is_let_in_again(fleet: Fleet) -> None:
    present = new_key()
    first = fleet.enrol(fleet.token(), key=present)
    assert not fleet.broker_is_to_be_told()
    revoked = fleet.api("POST", "/devices/pi-1/revoke", {"reason": "stolen"})
    assert (revoked["device_id"], revoked["certificates"]) == ("pi-1", 1)
    assert fleet.broker_is_to_be_told()
    renewal = fleet.renewal(first["certificate"], present, new_key())
    assert fleet.refusal(renewal, "/enrolment/renewal") == "revoked"
    assert fleet.api("GET", "/devices/pi-1")["revoked_at_ms"] == revoked["revoked_at_ms"]
    token = make_token(secrets.token_bytes(16))
    item = {
        "device_id": "pi-1",
        "hardware_model": MODEL,
        "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
    }
    batch = {"product": PRODUCT, "devices": [item]}
    assert fleet.api.refusal("POST", "/device-batches", batch, status=409)[0] == "conflict"
    assert fleet.api("POST", "/device-batches", batch | {"again": True}, expect=201) == [
        {"device_id": "pi-1", "new": False}
    ]
    fleet.enrol(token)
    assert fleet.api("GET", "/devices/pi-1")["revoked_at_ms"] is None
    assert fleet.refusal(renewal, "/enrolment/renewal") == "revoked"


def test_a_batch_is_made_known_whole_or_not_at_all(fleet: Fleet) -> None:
    def item(number: int, **changes: Any) -> dict[str, Any]:
        digest = hashlib.sha256(f"token {number}".encode()).hexdigest()
        made = {"device_id": f"pi-{number}", "hardware_model": MODEL, "token_sha256": digest, "line": number + 1}
        return made | changes

    good = [item(number) for number in range(1, 51)]
    for wrong, why in (
        (item(51, device_id="Pi"), "line 52: device 'Pi' is not an id"),
        (item(51, hardware_model="toaster"), "line 52: thermostat has no hardware model 'toaster'"),
        (item(51, groups=["nowhere"]), "line 52: product thermostat has no group 'nowhere'"),
        (item(51, device_id="pi-7"), "line 52: device pi-7 is registered already"),
    ):
        answer = fleet.api.http.post("/device-batches", json={"product": PRODUCT, "devices": [*good, wrong]})
        assert answer.is_client_error
        assert why in answer.json()["message"]
        assert (fleet.api("GET", "/devices")["total"], fleet.api("GET", "/enrolment-tokens")) == (0, [])
    made = fleet.api("POST", "/device-batches", {"product": PRODUCT, "devices": good}, expect=201)
    assert [it["new"] for it in made] == [True] * 50
    repeated = fleet.api("POST", "/device-batches", {"product": PRODUCT, "devices": good}, expect=201)
    assert [it["new"] for it in repeated] == [False] * 50
    assert fleet.api("GET", "/devices?limit=1")["total"] == 50


def test_the_authority_for_devices_is_changed_and_nobody_is_cut_off(fleet: Fleet) -> None:
    present, following = new_key(), new_key()
    first = fleet.enrol(fleet.token(), key=present)
    fleet.api("POST", "/authorities/devices/rotate", expect=201)
    assert fleet.broker_is_to_be_told()
    devices, services = fleet.api("GET", "/authorities")
    assert [(it["name"], it["issuing"], it["needed_by"]) for it in devices["authorities"]] == [
        ("devices-2", True, 0),
        ("devices-1", False, 1),
    ]
    assert [it["name"] for it in services["authorities"]] == ["services-1"]
    assert fleet.api("GET", "/authorities/devices/devices-1/devices") == ["pi-1"]
    code, message = fleet.api.refusal("POST", "/authorities/devices/retire", {}, status=409)
    assert (code, "pi-1" in message) == ("still_needed", True)
    fleet.device("POST", "/enrolment/renewal", fleet.renewal(first["certificate"], present, following))
    (left,) = fleet.api("POST", "/authorities/devices/retire", {})["authorities"]
    assert (left["name"], left["needed_by"]) == ("devices-2", 1)
    assert fleet.broker_is_to_be_told()
    actions = [row["action"] for row in fleet.api("GET", "/audit?limit=1000")]
    assert {"authority.rotated", "authority.retired"} <= set(actions)
    assert fleet.api.refusal("POST", "/authorities/devices/retire", {}, status=409)[0] == "conflict"


def test_an_authority_that_is_still_needed_goes_by_force_alone(fleet: Fleet) -> None:
    present = new_key()
    first = fleet.enrol(fleet.token(), key=present)
    fleet.api("POST", "/authorities/devices/rotate", expect=201)
    fleet.api("POST", "/authorities/devices/retire", {"force": True})
    second = fleet.device("POST", "/enrolment/renewal", fleet.renewal(first["certificate"], present, new_key()))
    assert fleet.api("GET", "/devices/pi-1/certificates")[0]["authority"] == "devices-2"
    assert second["certificate"] != first["certificate"]


def test_devices_hear_of_a_new_authority_for_services_before_the_old_one_goes(fleet: Fleet) -> None:
    fleet.enrol(fleet.token())
    fleet.api("POST", "/authorities/services/rotate", expect=201)
    _, services = fleet.api("GET", "/authorities")
    assert [(it["name"], it["issuing"], it["needed_by"]) for it in services["authorities"]] == [
        ("services-2", False, 0),
        ("services-1", True, 1),
    ]
    assert fleet.device("GET", "/enrolment/trust")["ca"].count("BEGIN CERTIFICATE") == 2
    assert fleet.api.refusal("POST", "/authorities/services/retire", {}, status=409)[0] == "still_needed"


def test_a_home_without_tls_gives_out_no_certificates(home: OpenHome, tmp_path: Path) -> None:
    if home.home.ca.exists():
        home.home.ca.rename(tmp_path / "away")
    with serve_api(home) as api:
        for method, path in (("GET", "/enrolment/trust"), ("GET", "/authorities")):
            assert api.refusal(method, path, status=409)[0] == "no_certificates"


def test_what_anybody_may_send_is_small(fleet: Fleet) -> None:
    wish = fleet.wish(fleet.token())
    for path in ("/enrolment", "/enrolment/renewal"):
        padded = json.dumps(wish).encode() + b" " * MAX_REQUEST_BYTES
        for content in (padded, iter([padded])):  # with its length in front, and without
            answer = fleet.device.http.post(path, content=content)
            assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    many = [f"group-{number:05d}" for number in range(8000)]
    refused = fleet.api.http.post("/enrolment-tokens", json={"groups": many})
    assert refused.status_code == 422, "an operator may say more"
    fleet.device("POST", "/enrolment", wish, expect=201)


def test_a_crowd_of_strangers_keeps_nobody_else_waiting(fleet: Fleet) -> None:
    app = create_app(fleet.api.backend)
    app.state.enrolment_desk = Desk(at_once=2, max_waiting=3)
    working, most = threading.Semaphore(0), [0]
    go_on = threading.Event()

    def held() -> str:
        most[0] += 1
        working.release()
        assert go_on.wait(10)
        most[0] -= 1
        return "done"

    async def crowd() -> list[str | BaseException]:
        calls = [asyncio.ensure_future(app.state.enrolment_desk.call(held)) for _ in range(7)]
        await asyncio.to_thread(lambda: [working.acquire(timeout=10) for _ in range(2)])
        assert most == [2], "more than two are worked on"
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test/api/v1") as stranger:
            for answer in (await stranger.get("/enrolment/trust"), await stranger.post("/enrolment", json=WISH)):
                assert (answer.status_code, answer.json()["error"]) == (503, "busy")
            headers = {"Authorization": f"Bearer {fleet.api.home.token}"}
            assert (await stranger.get("/devices", headers=headers)).status_code == 200
            go_on.set()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert (await stranger.get("/enrolment/trust")).status_code == 200
        return done

    done = asyncio.run(crowd())
    assert done[:5] == ["done"] * 5
    assert [getattr(error, "code", None) for error in done[5:]] == ["busy", "busy"]
