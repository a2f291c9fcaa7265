"""Whoever is refused too often waits: enrolment by address, over real HTTP and by a clock that the test moves."""

import hashlib
import secrets
from http import HTTPStatus

import httpx
import pytest

from cloud.access.limits import network_of
from cloud.api.limiting import CODE_TRIES, ENROLMENT_TRIES, Tries
from cloud.api.problems import ApiError
from protocol.enrolment import make_token
from tests.cloud.homes import MODEL, PRODUCT, Api
from tests.cloud.pki.requesting import new_key, request


def wish(api: Api, device_id: str) -> dict[str, str]:
    """Return a request of a device that has a good token."""
    text = make_token(secrets.token_bytes(16))
    digest = hashlib.sha256(text.encode()).hexdigest()
    api("POST", "/enrolment-tokens", {"token_sha256": digest, "product": PRODUCT}, expect=201)
    return {"token": text, "device_id": device_id, "hardware_model": MODEL, "csr": request(new_key()).decode()}


def test_an_address_that_is_refused_again_and_again_waits_and_one_that_is_let_in_does_not(api: Api) -> None:
    bad = wish(api, "pi-1") | {"token": make_token(bytes(16))}
    with httpx.Client(base_url=api.http.base_url, trust_env=False) as device:
        assert device.post("/enrolment", json=wish(api, "pi-2")).status_code == HTTPStatus.CREATED
        for _ in range(ENROLMENT_TRIES):
            assert device.post("/enrolment", json=bad).status_code == HTTPStatus.FORBIDDEN
        seen = {device.post("/enrolment", json=bad).status_code for _ in range(20)}
        assert HTTPStatus.TOO_MANY_REQUESTS in seen
        while (answer := device.post("/enrolment", json=bad)).status_code != HTTPStatus.TOO_MANY_REQUESTS:
            pass
        assert answer.json()["error"] == "too_many"
        assert answer.headers["Retry-After"] == "1"
        elsewhere = {"X-Forwarded-For": "192.0.2.7"}  # the proxy beside the server says so
        assert device.post("/enrolment", json=wish(api, "pi-3"), headers=elsewhere).status_code == HTTPStatus.CREATED
        assert device.get("/enrolment/trust").status_code == HTTPStatus.OK


def test_an_address_that_guesses_login_codes_waits_and_a_good_one_is_not_counted(api: Api) -> None:
    with httpx.Client(base_url=api.http.base_url, trust_env=False) as somebody:
        for _ in range(CODE_TRIES + 2):
            good = api("POST", "/login-codes", expect=201)["code"]
            assert somebody.post("/login-codes/token", json={"code": good}).status_code == HTTPStatus.CREATED
        good = api("POST", "/login-codes", expect=201)["code"]
        for _ in range(CODE_TRIES + 3):  # on a slow day one comes back meanwhile
            answer = somebody.post("/login-codes/token", json={"code": "a" * 43})
            if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                break
            assert (answer.status_code, answer.json()["error"]) == (HTTPStatus.FORBIDDEN, "bad_login_code")
        answer = somebody.post("/login-codes/token", json={"code": good})
        assert (answer.status_code, answer.json()["error"]) == (HTTPStatus.TOO_MANY_REQUESTS, "too_many")
        assert int(answer.headers["Retry-After"]) > 0
        elsewhere = {"X-Forwarded-For": "192.0.2.7"}  # the proxy beside the server says so
        answer = somebody.post("/login-codes/token", json={"code": good}, headers=elsewhere)
        assert answer.status_code == HTTPStatus.CREATED, "what was refused for its address was not used up"
        answer = somebody.post("/login-codes/token", json={"code": "a" * 70_000}, headers=elsewhere)
        assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_a_try_comes_back_with_time() -> None:
    now = 0.0
    tries = Tries(2, 0.5, now=lambda: now)
    for _ in range(2):
        tries.take("a")
    for refused in (tries.take, tries.check):
        with pytest.raises(ApiError) as error:
            refused("a")
        assert error.value.headers == {"Retry-After": "2"}
    tries.take("b")
    now = 2.0
    tries.check("a")
    tries.take("a")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("not an address", "not an address"),
    ],
)
def test_a_house_has_one_address_however_many_it_uses(address: str, network: str) -> None:
    assert network_of(address) == network
