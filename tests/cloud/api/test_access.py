"""Who gets in, what is too large, and how every refusal looks: over real HTTP."""

import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cloud.homes import PRODUCT, Api, OpenHome, open_home, serve_api

OPEN = {
    *("/api/v1/enrolment", "/api/v1/enrolment/trust", "/api/v1/enrolment/renewal"),
    "/api/v1/login-codes/token",
}
"""Who comes here brings another secret than a token: a device's, or a code for one login."""
"""What devices come to with a token or a key of their own."""


def routes(api: Api) -> list[tuple[str, str]]:
    document = api("GET", "/openapi.json")
    return [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]


def test_every_route_of_the_api_wants_a_token(api: Api) -> None:
    guarded = [(method, path) for method, path in routes(api) if path.startswith("/api/v1/") and path not in OPEN]
    assert len(guarded) > 30
    with httpx.Client(base_url=str(api.http.base_url).removesuffix("/api/v1/"), trust_env=False) as stranger:
        for headers in ({}, {"Authorization": "Bearer guessed"}, {"Authorization": "Basic b3BlcmF0b3I6eA=="}):
            for method, path in guarded:
                answer = stranger.request(method, path.replace("{", "").replace("}", ""), headers=headers)
                assert answer.status_code == 401, f"{method} {path}"
                assert set(answer.json()) == {"error", "message", "help"}
                assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_revoked_token_opens_nothing(api: Api) -> None:
    api("GET", "/system")
    api.home.store.tokens.revoke("operator", by="test")
    assert api.refusal("GET", "/system", status=401)[0] == "bad_token"


def test_probes_need_no_token_and_tell_nothing(api: Api) -> None:
    with httpx.Client(base_url=str(api.http.base_url).removesuffix("/api/v1/"), trust_env=False) as anyone:
        assert anyone.get("/livez").json() == {"status": "alive"}
        assert anyone.get("/readyz").json() == {"status": "ready"}


def test_the_document_of_the_api_has_a_model_for_every_answer(api: Api) -> None:
    document = api("GET", "/openapi.json")
    ids = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            ids.append(operation["operationId"])
            good = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            assert len(good) == 1, f"{method} {path}"
            schemas = [content.get("schema") for content in good[0].get("content", {}).values()]
            assert all(schemas), f"{method} {path} answers with anything at all"
            if path.startswith("/api/"):
                refusal = operation["responses"]["404"]["content"]["application/json"]["schema"]
                assert refusal == {"$ref": "#/components/schemas/Problem"}
                assert operation.get("security") == (None if path in OPEN else [{"HTTPBearer": []}])
    assert len(ids) == len(set(ids))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Api]:
    with open_home(tmp_path / "home") as home, serve_api(home, max_request_bytes=2000, max_image_bytes=5000) as served:
        yield served


@pytest.mark.parametrize(("path", "size"), [("/groups", 3000), (f"/blobs/{'a' * 64}", 6000)])
def test_a_request_over_the_limit_is_refused_by_its_header(small: Api, path: str, size: int) -> None:
    url = small.http.base_url
    method = "PUT" if "blobs" in path else "POST"
    with socket.create_connection((url.host, url.port or 80), timeout=10) as client:
        client.sendall(
            f"{method} /api/v1{path} HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer {small.home.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        assert client.recv(20).startswith(b"HTTP/1.1 413"), "it waits for a body that it will not take"


def test_an_image_over_the_limit_is_refused_while_it_streams(small: Api) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 1000

    answer = small.http.put(f"/blobs/{'a' * 64}", content=endless())
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")


def test_a_request_over_the_limit_is_refused_while_it_streams(small: Api) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 1000

    answer = small.http.post("/groups", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"] == "too_large"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "JSON"),
        (b'{"product": "thermostat"}', "group: field required"),
        (b'{"product": "thermostat", "group": "a", "grup": 1}', "grup: extra inputs are not permitted"),
        (b'{"product": "thermostat", "group": "a", "rank": "1"}', "rank: input should be a valid integer"),
        (b'{"product": "thermostat", "group": "A B"}', "is not an id"),
        (b"\xff\xfe", ""),
        (b'{"product": "thermostat", "group": "\\ud800"}', "lone surrogate"),
        (b'{"product": "thermostat", "group": "a", "\\udfff": 1}', "lone surrogate"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_malformed_body_is_answered_with_what_is_wrong(api: Api, body: bytes, says: str) -> None:
    answer = api.http.post("/groups", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()) == {"error", "message", "help"}
    assert says in answer.json()["message"]
    assert [group["group"] for group in api("GET", "/groups")] == ["everyone"]


def test_a_body_of_nothing_but_mistakes_costs_the_server_no_more_than_others(api: Api) -> None:
    wrong = "[" + "0," * 300_000 + "0]"
    unknown = ",".join(f'"{number}":0' for number in range(100_000))
    tracemalloc.start()
    try:
        for path, body in (
            ("/enrolment-tokens", f'{{"product":"{PRODUCT}","groups":{wrong}}}'),
            ("/device-batches", f'{{"product":"{PRODUCT}","devices":{wrong}}}'),
            ("/devices", f'{{"product":"{PRODUCT}","groups":{wrong}}}'),
            ("/products", f'{{"product":"{PRODUCT}","hardware_models":{wrong}}}'),
            ("/groups", f"{{{unknown}}}"),
        ):
            answer = api.http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 422, answer.text
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_a_number_beyond_what_the_database_holds_is_refused(api: Api) -> None:
    assert api.refusal("GET", "/audit", params={"after": str(2**64)}, status=422)[0] == "invalid"


def test_a_page_that_is_not_and_a_method_that_is_not(api: Api) -> None:
    assert api.refusal("GET", "/nothing", status=404)[0] == "no_such_page"
    assert api.refusal("DELETE", "/system", status=405)[0] == "method_not_allowed"


def test_an_error_of_the_server_hides_its_inside(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(api.home.store.catalog, "products", broken)
    code, message = api.refusal("GET", "/products", status=500)
    assert code == "internal"
    assert "secret" not in message
    assert "Traceback" not in message


def test_a_full_disk_is_said_as_such(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api.home.store.catalog, "create_group", full)
    code, message = api.refusal("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, status=507)
    assert code == "disk_full"
    assert "Nothing was changed" in message


def test_an_upload_that_is_cut_off_leaves_nothing_and_the_server_goes_on(home: OpenHome) -> None:
    with serve_api(home) as api:
        digest = "a" * 64
        host, port = api.http.base_url.host, api.http.base_url.port
        assert port is not None
        with socket.create_connection((host, port)) as cut:
            cut.sendall(
                f"PUT /api/v1/blobs/{digest} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {home.token}\r\n"
                "Content-Length: 100000\r\n\r\n".encode()
                + b"x" * 5000
            )
        api("GET", "/system")
        assert api.refusal("GET", f"/blobs/{digest}", status=404)[0] == "not_found"
    blobs = home.home.storage_path(home.settings.storage.blobs)
    assert list(blobs.iterdir()) == []
