"""Every decision is in the record, with who took it and from where: each route that changes something is asked once."""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from cloud.api.middleware import REQUEST_ID
from cloud.cli.client import ApiClient
from cloud.provenance import CLI_AGENT, SESSION_COOKIES
from protocol.enrolment import make_token
from tests.cloud.homes import MODEL, PRODUCT, Api, open_home, serve_api
from tests.cloud.pki.requesting import new_key, request
from tests.cloud.visitors import OTHER, routes_of

READING = {"forecast_release", "check_plan", "find_same_release", "try_query"}
"""They are asked with a body, and change nothing."""
NOT_THE_OPERATORS = {"renew", "enrol", "redeem_login_code"}
ON_EVIDENCE = {"roll_back", "promote_release", "take_turn_away"}
"""What takes a device that succeeded, or that has its turn; they are decided on and recorded as `create_release` is."""
CHANNEL = {"product": PRODUCT, "group": "everyone", "component": "app"}
PLAN = {"phases": [{"percentage": 10, "soak_s": 60}, {"percentage": 100, "soak_s": 60}], "gates": {"silence": None}}
MADE_LATER: dict[str, Callable[[Any], str]] = {
    "release": lambda answer: str(answer["release"]["release_id"]),
    "ota": lambda answer: str(answer["ota"]["ota_id"]),
}


@dataclass
class Story:
    """Requests that change something, each by its operation; names of what was made are filled in as they are known."""

    api: Api
    names: dict[str, str] = field(default_factory=dict)

    def steps(self) -> Iterator[tuple[str, str, str, Any]]:
        home = self.api.home
        image = b"image of 1.2.0"
        role = home.sign("1.2.0", image)
        yield "publish_role", "POST", f"/products/{PRODUCT}/role", role
        yield "put_blob", "PUT", f"/blobs/{hashlib.sha256(image).hexdigest()}", image
        yield "change_product", "PATCH", f"/products/{PRODUCT}", {"approvals": 0, "base_only": True}
        delegation = home.keyring.delegate(OTHER)
        new = {"targets": delegation.targets.decode(), "role": delegation.role.decode()}
        yield "create_product", "POST", "/products", {"product": OTHER, "hardware_models": [MODEL]} | new
        yield from self.of_devices()
        yield from self.of_releases()
        yield from self.of_people()
        yield "accept_metadata", "PUT", "/metadata", {"root": home.keyring.renew_root().decode()}
        yield "prepare_online_key", "POST", "/metadata/online-key", None
        yield "rotate_authority", "POST", "/authorities/devices/rotate", None
        yield "retire_authority", "POST", "/authorities/devices/retire", {"force": True}

    def of_devices(self) -> Iterator[tuple[str, str, str, Any]]:
        pi = {"device_id": "pi-2", "hardware_model": MODEL}
        yield "enrol_device", "POST", "/devices", pi | {"product": PRODUCT}
        yield (
            "prepare_devices",
            "POST",
            "/device-batches",
            {"product": PRODUCT, "devices": [pi | {"device_id": "pi-3"}]},
        )
        line = {"line": 1, "device_id": "pi-4", "product": PRODUCT, "hardware_model": MODEL}
        yield "import_fleet", "POST", "/fleet/import", {"devices": [line]}
        code = {"token_sha256": "7" * 64, "product": PRODUCT, "name": "line"}
        yield "create_enrolment_token", "POST", "/enrolment-tokens", code
        yield "revoke_enrolment_token", "DELETE", "/enrolment-tokens/line", None
        yield "create_group", "POST", "/groups", {"product": PRODUCT, "group": "pilot"}
        yield "change_members", "POST", f"/groups/{PRODUCT}/pilot/members", {"add": ["pi-2"]}
        self.api("POST", "/groups", {"product": PRODUCT, "group": "hall"}, expect=201)
        yield "change_group", "PATCH", f"/groups/{PRODUCT}/pilot", {"rank": 2}
        yield "delete_group", "DELETE", f"/groups/{PRODUCT}/pilot", None
        yield "create_set", "POST", "/sets", {"name": "pair"}
        yield "change_set_members", "POST", "/sets/pair/members", {"add": ["pi-1"]}
        many = {
            "product": PRODUCT,
            "deed": "lock",
            "component": "app",
            "version": "1.1.0",
            "devices": ["pi-2"],
            "count": 1,
        }
        yield "change_devices", "POST", "/devices/bulk", many
        yield "lock_device", "PUT", "/devices/pi-1/lock/app", {"version": "1.1.0"}
        yield "unlock_device", "DELETE", "/devices/pi-1/lock/app", None
        yield "create_ota", "POST", "/devices/pi-1/ota", {"component": "app", "version": "1.1.0"}
        yield "cancel_ota", "DELETE", "/otas/{ota}", None
        yield "revoke_device", "POST", "/devices/pi-2/revoke", {"reason": "lost"}
        yield "delete_set", "DELETE", "/sets/pair", None

    def of_releases(self) -> Iterator[tuple[str, str, str, Any]]:
        plain = CHANNEL | {"version": "1.1.0", "percentage": 50}
        planned = self.api("POST", "/releases/plan", plain)["plan_hash"]
        yield "plan_release", "POST", "/releases/plan", plain | {"percentage": 60}
        yield "release_by_plan", "POST", f"/releases/plan/{planned}", plain
        yield "patch_release", "PATCH", "/releases/{release}", {"percentage": 70}
        yield "create_release", "POST", "/releases", CHANNEL | {"version": "1.2.0", "plan": PLAN | {"approvals": 1}}
        yield "approve_rollout", "POST", "/releases/{release}/approve", None
        yield "pause_release", "POST", "/releases/{release}/pause", {"why": "x"}
        yield "resume_release", "POST", "/releases/{release}/resume", None
        yield "advance_rollout", "POST", "/releases/{release}/advance", None
        yield "retry_release", "POST", "/releases/{release}/retry", None
        yield "abort_rollout", "POST", "/releases/{release}/abort", {"why": "x"}
        hook = {"name": "pager", "url": "https://hooks.example/x", "product": PRODUCT}
        yield "add_webhook", "POST", "/webhooks", hook
        yield "try_webhook", "POST", "/webhooks/pager/test?wait=0", None
        yield "change_webhook", "PATCH", "/webhooks/pager", {"enabled": False}
        yield "remove_webhook", "DELETE", "/webhooks/pager", None

    def of_people(self) -> Iterator[tuple[str, str, str, Any]]:
        yield "add_person", "POST", "/people", {"name": "ann"}
        yield "set_grant", "PUT", "/people/ann/grants/*", {"role": "viewer"}
        yield "withdraw_grant", "DELETE", "/people/ann/grants/*", None
        yield "change_person", "PATCH", "/people/ann", {"disabled": True}
        yield "set_password", "PUT", "/people/ann/password", {"password": "correct horse battery"}
        yield "create_token", "POST", "/tokens", {"name": "ci"}
        yield "revoke_token", "DELETE", "/tokens/ci", None
        yield "create_login_code", "POST", "/login-codes", None


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with open_home(tmp_path_factory.mktemp("walk") / "home") as home, serve_api(home) as served:
        home.publish("1.1.0")
        home.join("pi-1")
        yield served


def send(api: Api, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    if isinstance(body, bytes):
        return api.http.request(method, path, content=body, headers=headers)
    if body is None and method == "POST":
        body = {}
    return api.http.request(method, path, json=body, headers=headers)


def test_every_route_that_changes_something_says_who_did_it_and_from_where(api: Api) -> None:
    story, walked = Story(api), set()
    for operation, method, path, body in story.steps():
        number = api("GET", "/audit/head")["number"]
        identity = secrets.token_hex(4)
        headers = {REQUEST_ID: identity, "User-Agent": f"{CLI_AGENT}/1"}
        if operation == "approve_rollout":
            headers |= {"Authorization": f"Bearer {approver(api)}"}
            number = api.home.store.audit.head().number
        answer = send(api, method, path.format(**story.names), body, headers)
        assert answer.is_success, f"{operation}: {answer.status_code} {answer.text}"
        assert answer.headers[REQUEST_ID] == identity
        rows = api("GET", "/audit", params={"after": number})
        assert rows, f"{operation} is not in the record"
        for row in rows:
            assert row["origin"]["request"] == identity, f"{operation}: {row}"
            assert (row["origin"]["address"], row["origin"]["via"]) == ("127.0.0.1", "cli")
            assert row["origin"]["token"] == ("approver" if operation == "approve_rollout" else "operator")
            assert row["actor"] == row["origin"]["token"]
        for kind, name_in in MADE_LATER.items():
            if answer.content and isinstance(answer.json(), dict) and isinstance(answer.json().get(kind), dict):
                story.names[kind] = name_in(answer.json())
        walked.add(operation)
    changing = {it.name for it in routes_of(api) if it.method != "GET"} - READING - NOT_THE_OPERATORS
    assert walked == changing - ON_EVIDENCE


def approver(api: Api) -> str:
    api("POST", "/people", {"name": "approver", "grants": {PRODUCT: "release_manager"}}, expect=201)
    return str(api("POST", "/tokens", {"name": "approver", "person": "approver"}, expect=201)["text"])


def test_an_enrolling_device_is_in_the_record_with_its_address_and_no_token(api: Api) -> None:
    text = make_token(secrets.token_bytes(16))
    digest = hashlib.sha256(text.encode()).hexdigest()
    api("POST", "/enrolment-tokens", {"token_sha256": digest, "product": PRODUCT}, expect=201)
    wish = {"token": text, "device_id": "pi-9", "hardware_model": MODEL, "csr": request(new_key()).decode()}
    with httpx.Client(base_url=api.http.base_url, trust_env=False) as device:
        answer = device.post("/enrolment", json=wish)
    assert answer.status_code == 201, answer.text
    row = api("GET", "/audit", params={"newest": "true", "limit": 1})[0]
    assert row["action"] == "device.enrolled"
    assert row["origin"] == {"address": "127.0.0.1", "via": "api", "request": answer.headers[REQUEST_ID]}


def test_who_logs_in_with_a_code_is_in_the_record_with_their_address_and_the_token_is_their_own(api: Api) -> None:
    code = api("POST", "/login-codes", expect=201)["code"]
    with httpx.Client(base_url=api.http.base_url, trust_env=False) as stranger:
        answer = stranger.post("/login-codes/token", json={"code": code}, headers={"User-Agent": f"{CLI_AGENT}/1"})
    assert answer.status_code == 201, answer.text
    row = api("GET", "/audit", params={"newest": "true", "limit": 1})[0]
    assert (row["action"], row["actor"]) == ("token.added", "operator")
    assert row["subject"] == f"token/{answer.json()['token']['name']}"
    assert row["origin"] == {"address": "127.0.0.1", "via": "cli", "request": answer.headers[REQUEST_ID]}
    said = api.http.get("/audit").text
    assert code not in said
    assert answer.json()["text"] not in said


@pytest.mark.parametrize("asked", ["", "a b", "x" * 65, "ü", "a;b", "<script>"])
def test_an_id_that_does_not_look_like_one_is_not_taken_over(api: Api, asked: str) -> None:
    answer = api.http.get("/me", headers=[(b"X-Request-Id", asked.encode())])
    assert answer.headers[REQUEST_ID] != asked
    assert len(answer.headers[REQUEST_ID]) == 16


@pytest.mark.parametrize(
    ("headers", "via"),
    [
        ({}, "api"),
        ({"User-Agent": f"{CLI_AGENT}/0.1"}, "cli"),
        ({"Cookie": f"{SESSION_COOKIES[1]}=x"}, "api"),  # what shows a token is no browser
    ],
)
def test_the_way_is_what_was_shown(api: Api, headers: dict[str, str], via: str) -> None:
    name = f"way-{secrets.token_hex(4)}"
    answer = api.http.post("/sets", json={"name": name}, headers=headers)
    assert answer.status_code == 201
    (row,) = api("GET", "/audit", params={"subject": f"set/{name}"})
    assert row["origin"]["via"] == via


def test_the_command_line_says_that_it_is_one(api: Api) -> None:
    client = ApiClient(str(api.http.base_url).removesuffix("/api/v1/"), api.home.token)
    try:
        client.post("sets", body={"name": "by-the-command-line"})
    finally:
        client.close()
    (row,) = api("GET", "/audit", params={"subject": "set/by-the-command-line"})
    assert row["origin"]["via"] == "cli"


def test_the_record_is_found_by_who_what_and_when_newest_first(api: Api) -> None:
    rows = api("GET", "/audit", params={"limit": 1000})
    assert [it["number"] for it in rows] == list(range(1, len(rows) + 1))
    newest = api("GET", "/audit", params={"newest": "true", "limit": 3})
    assert newest == rows[:-4:-1]
    following = api("GET", "/audit", params={"newest": "true", "limit": 3, "before": newest[-1]["number"]})
    assert following == rows[-4:-7:-1]
    assert api("GET", "/audit", params={"actor": "init"}) == [it for it in rows if it["actor"] == "init"]
    assert {it["subject"] for it in api("GET", "/audit", params={"prefix": "set/"})} == {
        it["subject"] for it in rows if it["subject"].startswith("set/")
    }
    assert api("GET", "/audit", params={"prefix": "%"}) == []
    at = rows[len(rows) // 2]["at_ms"]
    assert api("GET", "/audit", params={"since_ms": at, "limit": 1000}) == [it for it in rows if it["at_ms"] >= at]
    assert api("GET", "/audit", params={"until_ms": at, "limit": 1000}) == [it for it in rows if it["at_ms"] < at]
    action = {"action": "set.created", "limit": 1000}
    assert api("GET", "/audit", params=action) == [it for it in rows if it["action"] == "set.created"]
