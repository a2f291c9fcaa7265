"""The HTTP API: who has no token, somebody else's page, other verbs, paths that lead elsewhere, bodies without end."""

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from cloud.config import Home
from tests.attacks.evidence import files_in
from tests.attacks.identities import stranger
from tests.support.fleet import Fleet

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
PUBLIC = {
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/api/v1/enrolment/trust"),
    ("POST", "/api/v1/enrolment"),
    ("POST", "/api/v1/enrolment/renewal"),
    ("POST", "/api/v1/login-codes/token"),
}
"""What anybody may do; each of it is tried by test_enrolment, and by the tests of people."""
DECIDED = (
    "product",
    "device",
    "device_group",
    "firmware",
    "release",
    "pin",
    "ota",
    "token",
    "enrolment_token",
    "audit",
)
TRAVERSALS = (
    "..",
    "../../keys/online.pem",
    "..%2f..%2fkeys%2fonline.pem",
    "%2e%2e/%2e%2e/keys/online.pem",
    "%2e%2e%2f%2e%2e%2fkeys%2fonline.pem",
    "..%252f..%252fkeys%252fonline.pem",
    "..%5c..%5ckeys%5conline.pem",
    "....//....//keys/online.pem",
    "%00/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "online.pem%00.json",
    "..%c0%af..%c0%afkeys%c0%afonline.pem",
    "1.root.json/../../keys/online.pem",
)


def routes(fleet: Fleet) -> dict[str, set[str]]:
    """Every path of the API with its verbs, as the server itself describes them."""
    with stranger(fleet) as http:
        paths = http.get("/openapi.json").json()["paths"]
    return {path: {verb.upper() for verb in verbs} for path, verbs in paths.items()}


def filled(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "thermostat", path)


def decided(fleet: Fleet) -> dict[str, list[dict[str, Any]]]:
    return {table: fleet.query(f"SELECT * FROM {table} ORDER BY 1, 2") for table in DECIDED}  # noqa: S608


@contextmanager
def nothing_decided(fleet: Fleet) -> Iterator[None]:
    """No row of what operators decide changes inside, and no file of the server's appears; it serves on."""
    cloud = Home(fleet.office.home).cloud
    before, blobs = decided(fleet), files_in(cloud / "blobs")
    yield
    assert decided(fleet) == before
    assert files_in(cloud / "blobs") == blobs
    assert fleet.api("GET", "/system")["token"] == "operator"


def credentials_of_nobody(fleet: Fleet) -> list[dict[str, Any]]:
    """Ways to say who one is that are none: the right token in any place but its own, and wrong ones in it."""
    token = Home(fleet.office.home).token_file.read_text().strip()
    return [
        {},
        {"cookies": {"token": token, "session": token, "Authorization": f"Bearer {token}"}},
        {"params": {"token": token, "access_token": token}},
        {"headers": {"X-Api-Key": token, "Proxy-Authorization": f"Bearer {token}", "X-Forwarded-User": "operator"}},
        {"headers": {"Authorization": f"Basic {token}"}},
        {"headers": {"Authorization": token}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {"Authorization": f"Bearer {token[:-1]}"}},
        {"headers": {"Authorization": f"Bearer {token}x"}},
        {"headers": {"Authorization": f"Bearer {token.upper()}"}},
    ]


def test_without_the_token_in_its_place_every_route_is_closed(fleet: Fleet) -> None:
    found = routes(fleet)
    assert len(found) > 20
    with nothing_decided(fleet), stranger(fleet) as http:
        root = str(http.base_url).removesuffix("/api/v1/")
        for number, nobody in enumerate(credentials_of_nobody(fleet)):
            http.cookies.clear()
            http.cookies.update(nobody.pop("cookies", {}))
            for path, verbs in found.items():
                for verb in verbs:
                    if (verb, path) in PUBLIC:
                        continue
                    answer = http.request(verb, f"{root}{filled(path)}", json={}, **nobody)
                    assert answer.status_code == 401, f"{verb} {path} by nobody {number}: {answer.status_code}"
                    assert answer.json()["error"] in ("no_token", "bad_token")


def test_nobody_elses_page_can_use_an_operators_browser(fleet: Fleet) -> None:
    """No cookie is ever set or read, no origin is let in, and what a form can send is refused: nothing to ride on."""
    origin = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    with nothing_decided(fleet), stranger(fleet) as http, fleet.http as operator:
        for path, verbs in routes(fleet).items():
            preflight = {
                **origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization",
            }
            short = filled(path).removeprefix("/api/v1")
            answers = [http.request("OPTIONS", short, headers=preflight)]
            if "GET" in verbs and not path.startswith(("/livez", "/readyz")):
                answers.append(operator.get(short, headers=origin))
            for answer in answers:
                names = [name.lower() for name in answer.headers]
                assert not [name for name in names if name.startswith("access-control-")], path
                assert "set-cookie" not in names, path
            assert answers[0].status_code >= 400
        form = {"content": b'{"product": "evil"}', "headers": {**origin, "Content-Type": "text/plain"}}
        for path in ("/products", "/releases", "/groups", "/enrolment-tokens"):
            assert http.post(path, **form).status_code == 401  # type: ignore[arg-type]


def test_a_session_cannot_be_fixed_for_there_is_none(fleet: Fleet) -> None:
    """An identifier that the intruder chose changes nothing before or after a good request, and none is given out."""
    token = Home(fleet.office.home).token_file.read_text().strip()
    chosen = {"session": "chosen", "sessionid": "chosen", "JSESSIONID": "chosen"}
    with stranger(fleet, cookies=chosen) as http:
        assert http.get("/devices").status_code == 401
        assert http.get("/devices", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert dict(http.cookies) == chosen
        assert http.get("/devices").status_code == 401, "the same connection, the same cookies"


def test_other_verbs_than_a_route_has_do_nothing(fleet: Fleet) -> None:
    overrides = {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE", "X-HTTP-Method": "DELETE"}
    with nothing_decided(fleet), fleet.http as operator:
        for path, verbs in routes(fleet).items():
            if path.startswith(("/livez", "/readyz")):
                continue
            for verb in VERBS:
                if verb in verbs:
                    continue
                answer = operator.request(verb, filled(path).removeprefix("/api/v1"))
                # A path without a name may be another route's with that name: /releases/forecast, for one.
                assert answer.status_code in (404, 405, 422), f"{verb} {path}: {answer.status_code}"
        answer = operator.get("/products/thermostat?_method=DELETE", headers=overrides)
        assert answer.status_code == 200
        assert answer.json()["product"] == "thermostat"


def raw(fleet: Fleet, request: bytes, *, timeout_s: float = 10.0) -> bytes:
    """Send bytes to the server, and return all that it answers until it hangs up, or the end of an answer."""
    context = ssl.create_default_context(cafile=Home(fleet.office.home).operator_ca)
    with (
        socket.create_connection(("127.0.0.1", fleet.office.port), timeout_s) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(request)
        answer = b""
        while block := connection.recv(65536):
            answer += block
        return answer


def bearer(fleet: Fleet) -> str:
    return f"Authorization: Bearer {Home(fleet.office.home).token_file.read_text().strip()}\r\nConnection: close\r\n"


def test_no_path_leads_out_of_where_files_are(fleet: Fleet) -> None:
    """By every route that has a name in its path, with the operator's own token; exactly as written, nothing tidied."""
    home = Home(fleet.office.home)
    secrets = [(home.cloud / "keys" / "online.pem").read_bytes()[30:80], b"root:x:0", b"[server]", b"SQLite format"]
    paths = [path for path in routes(fleet) if "{" in path]
    assert {"/api/v1/blobs/{digest}", "/api/v1/metadata/{name}"} <= set(paths)
    with nothing_decided(fleet):
        for path in paths:
            for traversal in TRAVERSALS:
                target = re.sub(r"\{[^}]+\}", lambda _: traversal, path, count=1)  # noqa: B023
                target = filled(target)
                answer = raw(fleet, f"GET {target} HTTP/1.1\r\nHost: x\r\n{bearer(fleet)}\r\n".encode())
                status = int(answer.split(b" ", 2)[1])
                assert status in (400, 404, 405, 409, 422), f"{target}: {status}"
                assert not any(secret in answer for secret in secrets), target


def test_no_upload_writes_anywhere_but_under_its_digest(fleet: Fleet) -> None:
    home = Home(fleet.office.home)

    def names() -> set[str]:
        found = set(files_in(home.root))
        return {name for name in found if "broker/" not in name and not name.endswith(("-wal", "-shm"))}

    before = names()
    content = b"evil"
    headers = f"Content-Length: {len(content)}\r\nContent-Type: application/octet-stream\r\n"
    with nothing_decided(fleet):
        for traversal in (*TRAVERSALS, "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64):
            request = f"PUT /api/v1/blobs/{traversal} HTTP/1.1\r\nHost: x\r\n{headers}{bearer(fleet)}\r\n".encode()
            status = int(raw(fleet, request + content).split(b" ", 2)[1])
            assert status in (400, 404, 405, 409, 422), f"{traversal}: {status}"
        for traversal in TRAVERSALS:
            role = (
                f"POST /api/v1/products/{traversal}/role HTTP/1.1\r\nHost: x\r\n{headers}{bearer(fleet)}\r\n".encode()
            )
            assert int(raw(fleet, role + content).split(b" ", 2)[1]) in (400, 404, 405, 422)
    assert names() == before


def test_names_with_wildcards_and_slashes_are_refused_wherever_names_are_taken(fleet: Fleet) -> None:
    odd = ("+", "#", "a/b", "a+b", "#a", "$SYS", "../a", "a b", "A", "a\n", "a\0", "", "x" * 65, "é", "a.b")
    with nothing_decided(fleet), fleet.http as http:
        for name in odd:
            bodies: dict[str, Any] = {
                "/groups": {"product": "thermostat", "group": name},
                "/devices": {"device_id": name, "product": "thermostat", "hardware_model": "raspberrypi4"},
                "/products": {"product": name, "hardware_models": ["x"], "targets": "{}", "role": "{}"},
                "/releases": {"product": "thermostat", "group": name, "component": "app", "version": "1.0.0"},
                "/enrolment-tokens": {"product": name, "token_sha256": "a" * 64},
                "/device-batches": {
                    "product": "thermostat",
                    "devices": [{"device_id": name, "hardware_model": "raspberrypi4"}],
                },
            }
            for path, body in bodies.items():
                answer = http.post(path, json=body)
                assert 400 <= answer.status_code < 500, f"{path} {name!r}: {answer.status_code}"
        for name in ("+", "#", "a/b", "$SYS", "../a", "a b", "A", "x" * 65, "é", "a.b"):
            for words in (
                ("group", "create", name),
                ("product", "create", name, "--hardware", "x"),
                ("device", "enrol", name, "--directory", "never"),
                ("group", "add", "everyone", name),
                ("token", "create", "--device", name),
                ("token", "create", "--group", name),
            ):
                with pytest.raises(AssertionError, match=r"Answer\(code=[125],"):  # any code but 0
                    fleet.call(*words)


def test_bodies_without_end_are_cut_off(fleet: Fleet) -> None:
    """What is said to be large is refused at once, what is not said to be is refused when it is."""
    with nothing_decided(fleet), stranger(fleet) as nobody, fleet.http as operator:

        def endless() -> Iterator[bytes]:
            for _ in range(200):
                yield b"x" * 65536

        for path in ("/enrolment", "/enrolment/renewal"):
            answer = nobody.post(path, content=endless(), headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
            request = f"POST /api/v1{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
            assert b" 413 " in raw(fleet, request.encode())[:20]
        for path in ("/releases", "/products/thermostat/role", "/device-batches"):
            assert operator.post(path, content=endless()).status_code == 413
        assert nobody.put(f"/blobs/{'a' * 64}", content=b"x" * 100_000).status_code == 401
        huge = (
            f"PUT /api/v1/blobs/{'a' * 64} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n{bearer(fleet)}\r\n"
        )
        assert b" 413 " in raw(fleet, huge.encode())[:20]
        deep = operator.post("/releases", content=b"[" * 1_000_000, headers={"Content-Type": "application/json"})
        assert deep.status_code in (400, 422)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /api/v1/enrolment HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/v1/enrolment HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
        b"GET /api/v1/system HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 1000,
        b"\x16\x03\x01" * 100,
    ],
    ids=["lengths-differ", "negative", "long-header", "long-path", "nulls", "tls-in-tls"],
)
def test_requests_that_mean_two_things_or_none_are_refused(fleet: Fleet, request_bytes: bytes) -> None:
    with nothing_decided(fleet):
        answer = b""
        try:
            answer = raw(fleet, request_bytes)
        except (ConnectionError, ssl.SSLError):
            return  # it hung up
        assert answer == b"" or answer.split(b" ", 2)[1] in (b"400", b"413", b"414", b"422", b"431", b"404"), answer[
            :100
        ]


def test_slow_senders_keep_nobody_waiting(fleet: Fleet) -> None:
    """A hundred connections that send a byte now and then; the operator's request takes no longer than usual."""
    context = ssl.create_default_context(cafile=Home(fleet.office.home).operator_ca)
    with ExitStack() as stack:
        slow = []
        for number in range(100):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", fleet.office.port), 10))
            if number % 2:  # half of them do not even shake hands
                slow.append(stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1")))
        for connection in slow:
            connection.sendall(b"POST /api/v1/enrolment HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n{")
        began = time.monotonic()
        for _ in range(10):
            fleet.api("GET", "/system")
            for connection in slow:
                connection.sendall(b" ")
        assert time.monotonic() - began < 5
    fleet.api("GET", "/system")


def test_a_false_host_leads_nobody_elsewhere(fleet: Fleet) -> None:
    """Links in answers are the server's own, whatever a request or a proxy says that it is called."""
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    with fleet.http as http:
        for path in (
            "/system",
            "/devices",
            "/releases?product=thermostat",
            "/products/",
            "/openapi.json",
            "//evil.example/..",
        ):
            answer = http.get(path, headers=headers)
            assert "evil.example" not in answer.text.replace("//evil.example/..", ""), path
            assert "evil.example" not in answer.headers.get("location", ""), path


def test_nothing_is_served_in_the_clear(fleet: Fleet) -> None:
    for request in (b"GET /api/v1/system HTTP/1.1\r\nHost: x\r\n\r\n", b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"):
        for port in (fleet.office.port, fleet.broker.port, fleet.broker.cloud_port):
            with socket.create_connection(("127.0.0.1", port), 5) as plain:
                plain.sendall(request)
                try:
                    answer = plain.recv(1000)
                except ConnectionError:
                    answer = b""
            assert b"HTTP/1.1 2" not in answer
            assert not answer.startswith(b"\x20"), "a CONNACK"


def test_errors_tell_nothing_of_the_inside(fleet: Fleet) -> None:
    with fleet.http as http:
        answers = [
            http.get("/blobs/../../x"),
            http.post("/releases", content=b"\xff"),
            http.post("/releases", content=b"{}", headers={"Content-Type": "text/plain"}),
            http.get("/devices/%ff%fe"),
            http.get("/audit", params={"limit": "x"}),
            http.get("/firmware/a/b/c"),
            http.post("/products", json={"product": "x", "hardware_models": ["y"], "targets": "[", "role": "["}),
        ]
    for answer in answers:
        assert 400 <= answer.status_code < 500
        assert not re.search(r"Traceback|site-packages|sqlalchemy|/home/|\.py\b", answer.text), answer.text
        json.loads(answer.text)
