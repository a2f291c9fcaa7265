"""People and tokens over real HTTP: nobody gets more than they have, and what is taken away is gone at once."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cloud.access.passwords import verify
from cloud.access.roles import EVERYTHING, Role
from cloud.api.backend import hash_token
from cloud.api.limiting import PASSWORD_TRIES
from cloud.store.errors import ConflictError, NotFoundError
from cloud.store.store import Store
from tests.cloud.homes import PRODUCT, Api
from tests.cloud.visitors import client, token_of, visitor

PASSWORD = "correct horse battery"
DAY_MS = 86_400_000


def names(api: Api, path: str) -> list[str]:
    return [it["name"] for it in api("GET", path)]


def test_a_new_server_believes_one_administrator(api: Api) -> None:
    me = api("GET", "/me")
    assert (me["name"], me["grants"], me["token"]) == ("operator", {EVERYTHING: "admin"}, "operator")
    assert (me["role"], me["product"], me["has_password"]) == ("admin", EVERYTHING, False)
    assert api.home.token.startswith("flt_")
    assert api("GET", "/system")["person"] == "operator"


def test_roles_are_given_and_taken_away_and_count_at_once(api: Api) -> None:
    api("POST", "/people", {"name": "ann"}, expect=201)
    ann = token_of(api, "anns", "ann")
    assert ann.refusal("GET", f"/products/{PRODUCT}", status=404)[0] == "not_found"
    api("PUT", f"/people/ann/grants/{PRODUCT}", {"role": "viewer"})
    assert ann("GET", f"/products/{PRODUCT}")["product"] == PRODUCT
    api("PUT", f"/people/ann/grants/{PRODUCT}", {"role": "release_manager"})
    ann("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    assert api("GET", "/people/ann")["grants"] == {PRODUCT: "release_manager"}
    api("DELETE", f"/people/ann/grants/{PRODUCT}")
    assert ann.refusal("GET", f"/products/{PRODUCT}", status=404)[0] == "not_found"
    assert api.refusal("DELETE", f"/people/ann/grants/{PRODUCT}", status=404)[0] == "not_found"
    actions = [(it["actor"], it["action"]) for it in api("GET", "/audit", params={"subject": "person/ann"})]
    assert actions == [("operator", f"person.{it}") for it in ("added", "granted", "granted", "withdrawn")]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "operator"}, 409),
        ({"name": "server"}, 422),
        ({"name": "An n"}, 422),
        ({"name": "ann", "grants": {"no-such-product": "viewer"}}, 404),
        ({"name": "ann", "grants": {PRODUCT: "owner"}}, 422),
    ],
)
def test_what_is_no_person_is_refused_and_nothing_is_changed(api: Api, body: dict[str, Any], status: int) -> None:
    head = api("GET", "/audit/head")
    assert api.refusal("POST", "/people", body, status=status)
    assert names(api, "/people") == ["operator"]
    assert api("GET", "/audit/head") == head


def test_an_administrator_of_a_product_gives_roles_for_it_and_for_nothing_else(api: Api) -> None:
    lead = visitor(api, "lead", {PRODUCT: Role.ADMIN})
    visitor(api, "ann", {})
    lead("PUT", f"/people/ann/grants/{PRODUCT}", {"role": "operator"})
    assert lead.refusal("PUT", "/people/lead/grants/*", {"role": "admin"}, status=403)[0] == "not_allowed"
    assert lead.refusal("POST", "/people", {"name": "bob"}, status=403)[0] == "not_allowed"
    assert lead.refusal("PATCH", "/people/ann", {"disabled": True}, status=403)[0] == "not_allowed"
    assert lead.refusal("PUT", "/people/ann/password", {"password": PASSWORD}, status=403)[0] == "not_allowed"
    api("PUT", "/people/lead/grants/*", {"role": "viewer"})
    assert lead("GET", "/audit/head")["number"] > 0


def test_who_is_disabled_is_out_with_every_token_and_session_and_comes_back_with_the_tokens(api: Api) -> None:
    ann = visitor(api, "ann", {EVERYTHING: Role.VIEWER})
    sessions = api.home.store.sessions
    sessions.open("5" * 64, "ann", "csrf", "127.0.0.1", lifetime_s=60)
    sessions.add_code("6" * 64, "ann")
    api("PATCH", "/people/ann", {"disabled": True})
    assert ann.refusal("GET", "/me", status=401)[0] == "bad_token"
    assert sessions.find("5" * 64) is None
    assert sessions.use_code("6" * 64) is None
    assert api.home.store.people.caller("ann") is None
    api("PATCH", "/people/ann", {"disabled": False})
    assert ann("GET", "/me")["name"] == "ann"
    assert sessions.find("5" * 64) is None, "sessions do not come back"


def test_the_last_administrator_of_everything_stays_one(api: Api) -> None:
    visitor(api, "lead", {PRODUCT: Role.ADMIN})
    for method, path, body in (
        ("PATCH", "/people/operator", {"disabled": True}),
        ("DELETE", "/people/operator/grants/*", None),
        ("PUT", "/people/operator/grants/*", {"role": "release_manager"}),
    ):
        code, why = api.refusal(method, path, body, status=409)
        assert code == "conflict"
        assert "the last administrator of everything" in why
    visitor(api, "second", {EVERYTHING: Role.ADMIN})
    api("PATCH", "/people/second", {"disabled": True})
    assert api.refusal("PATCH", "/people/operator", {"disabled": True}, status=409)[0] == "conflict"
    api("PATCH", "/people/second", {"disabled": False})
    assert api("PUT", "/people/operator/grants/*", {"role": "viewer"})["grants"] == {EVERYTHING: "viewer"}
    assert api.refusal("PATCH", "/people/second", {"disabled": True}, status=403)[0] == "not_allowed"


# Passwords


def test_a_password_is_set_by_its_person_or_an_administrator_and_ends_sessions(api: Api) -> None:
    ann = visitor(api, "ann", {})
    ann("PUT", "/people/ann/password", {"password": PASSWORD})
    kept = api.home.store.people.password_of("ann")
    assert verify(kept, PASSWORD)
    assert ann("GET", "/me")["has_password"] is True
    api.home.store.sessions.open("5" * 64, "ann", "csrf", "127.0.0.1", lifetime_s=60)
    for body in ({"password": "another password"}, {"password": "another password", "current": "not this one"}):
        assert ann.refusal("PUT", "/people/ann/password", body, status=403)[0] == "wrong_password"
    assert api.home.store.sessions.find("5" * 64) is not None
    ann("PUT", "/people/ann/password", {"password": "another password", "current": PASSWORD})
    assert api.home.store.sessions.find("5" * 64) is None
    api("PUT", "/people/ann/password", {"password": None})
    assert api.home.store.people.password_of("ann") is None
    assert PASSWORD not in api.http.get("/audit?limit=1000").text
    assert "argon2" not in api.http.get("/audit?limit=1000").text + api.http.get("/people").text
    assert api.refusal("PUT", "/people/ann/password", {"password": "short"}, status=422)[0] == "invalid"


def test_guessing_the_present_password_is_slowed_down(api: Api) -> None:
    ann = visitor(api, "ann", {})
    ann("PUT", "/people/ann/password", {"password": PASSWORD})
    for _ in range(PASSWORD_TRIES):
        ann.refusal("PUT", "/people/ann/password", {"password": PASSWORD, "current": "guess"}, status=403)
    answer = ann.http.put("/people/ann/password", json={"password": PASSWORD, "current": PASSWORD})
    assert (answer.status_code, answer.json()["error"]) == (429, "too_many")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert "Nothing was changed" in answer.json()["message"]


def test_a_token_that_may_less_than_its_person_becomes_no_more(api: Api) -> None:
    scopes: list[dict[str, Any]] = [{"role": Role.VIEWER}, {"role": Role.RELEASE_MANAGER}, {"product": PRODUCT}]
    for number, scope in enumerate(scopes):
        narrow = token_of(api, f"narrow-{number}", "operator", **scope)
        assert narrow.refusal("PUT", "/people/operator/password", {"password": PASSWORD}, status=403)
        assert narrow.refusal("POST", "/login-codes", status=403)[0] == "not_allowed"
        assert narrow.refusal("POST", "/tokens", {"name": "more", "role": "admin", "product": "*"}, status=403)
        made = narrow("POST", "/tokens", {"name": f"same-{number}"}, expect=201)["token"]
        assert (made["role"], made["product"]) == (scope.get("role", Role.ADMIN), scope.get("product", EVERYTHING))


# Tokens


def test_a_token_is_told_once_and_does_what_it_says_and_no_more(api: Api) -> None:
    ann = visitor(api, "ann", {PRODUCT: Role.OPERATOR})
    made = ann("POST", "/tokens", {"name": "ci", "role": "viewer", "lifetime_s": 3600}, expect=201)
    assert made["text"].startswith("flt_")
    assert made["token"]["person"] == "ann"
    assert abs(made["token"]["expires_at_ms"] - time.time() * 1000 - 3_600_000) < 60_000
    assert made["text"] not in api.http.get("/tokens").text + api.http.get("/audit?limit=1000").text
    assert hash_token(made["text"]) not in api.http.get("/tokens").text
    with client(api, made["text"]) as ci:
        assert ci.get(f"/products/{PRODUCT}").status_code == 200
        assert ci.post("/devices", json={"product": PRODUCT}).status_code == 403
        made_by_it = ci.post("/tokens", json={"name": "ci-2", "lifetime_s": 7200}).json()
        assert made_by_it["token"]["expires_at_ms"] == made["token"]["expires_at_ms"], "it outlives its maker"
        api("DELETE", f"/people/ann/grants/{PRODUCT}")
        assert ci.get(f"/products/{PRODUCT}").status_code == 404, "it may no more than its person"
        assert ci.delete("/tokens/ci").status_code == 200
        assert ci.get("/me").status_code == 401


def test_tokens_are_ones_own_but_for_administrators_of_everything(api: Api) -> None:
    ann, lead = visitor(api, "ann", {}), visitor(api, "lead", {PRODUCT: Role.ADMIN})
    assert names(ann, "/tokens") == ["ann"]
    assert names(lead, "/tokens") == ["lead"]
    assert names(api, "/tokens") == ["ann", "lead", "operator"]
    for name in ("ann", "operator", "no-such-token"):
        assert lead.refusal("DELETE", f"/tokens/{name}", status=403)[0] == "not_allowed"
    assert lead.refusal("POST", "/tokens", {"name": "x", "person": "ann"}, status=403)[0] == "not_allowed"
    assert api("POST", "/tokens", {"name": "x", "person": "ann"}, expect=201)["token"]["person"] == "ann"
    assert api.refusal("POST", "/tokens", {"name": "x"}, status=409)[0] == "conflict"
    assert api.refusal("POST", "/tokens", {"name": "y", "person": "nobody"}, status=404)[0] == "not_found"
    api("DELETE", "/tokens/ann")
    assert ann.refusal("GET", "/me", status=401)[0] == "bad_token"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Any, clock: Clock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/store.db", clock) as opened:
        opened.people.add("ann", {EVERYTHING: Role.ADMIN}, by="test")
        yield opened


def test_a_token_is_good_until_it_expires_and_its_use_is_noted_to_the_minute(store: Store, clock: Clock) -> None:
    until_ms = int((clock.now + 600) * 1000)
    store.tokens.add("ci", "a" * 64, person="ann", expires_at_ms=until_ms, by="ann")
    assert store.tokens.token("ci").used_at_ms is None
    first_ms = int(clock.now * 1000)
    assert store.tokens.caller("a" * 64) is not None
    clock.now += 59
    assert store.tokens.caller("a" * 64) is not None
    assert store.tokens.token("ci").used_at_ms == first_ms
    clock.now += 2
    assert store.tokens.caller("a" * 64) is not None
    assert store.tokens.token("ci").used_at_ms == first_ms + 61_000
    clock.now = until_ms / 1000 - 0.001
    assert store.tokens.find("a" * 64) is not None
    clock.now = until_ms / 1000
    assert store.tokens.find("a" * 64) is None
    assert store.tokens.caller("a" * 64) is None


def test_a_session_ends_when_its_time_is_over_or_its_person_says_so(store: Store, clock: Clock) -> None:
    for number in range(3):
        store.sessions.open(f"{number}" * 64, "ann", "csrf", "192.0.2.1", lifetime_s=600)
    found = store.sessions.find("0" * 64)
    assert found is not None
    assert (found.person, found.csrf, found.address) == ("ann", "csrf", "192.0.2.1")
    store.sessions.close("0" * 64)
    assert [store.sessions.find(f"{it}" * 64) is not None for it in range(3)] == [False, True, True]
    clock.now += 61
    touched = store.sessions.find("1" * 64)
    assert touched is not None
    assert touched.seen_at_ms == int(clock.now * 1000)
    clock.now += 540
    assert store.sessions.find("1" * 64) is None
    store.sessions.open("4" * 64, "ann", "csrf", "192.0.2.1", lifetime_s=600)
    store.sessions.close_all("ann")
    assert store.sessions.find("4" * 64) is None
    with pytest.raises(NotFoundError):
        store.sessions.open("5" * 64, "bob", "csrf", "", lifetime_s=1)


def test_a_login_code_is_good_once_and_for_five_minutes(store: Store, clock: Clock) -> None:
    store.sessions.add_code("a" * 64, "ann")
    store.sessions.add_code("b" * 64, "ann")
    assert store.sessions.use_code("c" * 64) is None
    used = store.sessions.use_code("a" * 64)
    assert used is not None
    assert (used.person, used.until_ms) == ("ann", None)
    assert store.sessions.use_code("a" * 64) is None
    clock.now += 300
    assert store.sessions.use_code("b" * 64) is None


def test_two_who_disable_each_other_leave_one(store: Store) -> None:
    store.people.add("bob", {EVERYTHING: Role.ADMIN}, by="ann")
    store.people.disable("ann", by="bob")
    with pytest.raises(ConflictError, match="last administrator"):
        store.people.disable("bob", by="ann")


def test_a_login_code_leads_to_the_console(api: Api) -> None:
    made = api("POST", "/login-codes", expect=201)
    assert made["url"] == f"http://api.test/login?code={made['code']}"
    assert made["code"] not in api.http.get("/audit").text
    used = api.home.store.sessions.use_code(hash_token(made["code"]))
    assert used is not None
    assert used.person == "operator"
    assert json.loads(api.http.get("/audit?newest=true&limit=1").text)[0]["action"] == "person.login_code_made"


def redeem(api: Api, code: str, **more: object) -> httpx.Response:
    """Log in as somebody does who has nothing but a code."""
    with httpx.Client(base_url=api.http.base_url, trust_env=False) as stranger:
        return stranger.post("/login-codes/token", json={"code": code} | more)


def with_token(api: Api, text: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {text}"}
    return httpx.Client(base_url=api.http.base_url, headers=headers, trust_env=False)


def test_a_login_code_is_exchanged_for_a_token_once(api: Api) -> None:
    code = api("POST", "/login-codes", expect=201)["code"]
    before_ms = time.time() * 1000
    answer = redeem(api, code)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["text"].startswith("flt_")
    assert (made["token"]["person"], made["token"]["role"], made["token"]["product"]) == ("operator", "admin", "*")
    assert 29 * DAY_MS < made["token"]["expires_at_ms"] - before_ms < 31 * DAY_MS, "it ends, whoever asks"
    with with_token(api, made["text"]) as mine:
        me = mine.get("/me").json()
    assert (me["name"], me["token"]) == ("operator", made["token"]["name"])
    assert me["expires_at_ms"] == made["token"]["expires_at_ms"]
    again = redeem(api, code)
    assert (again.status_code, again.json()["error"]) == (403, "bad_login_code")
    assert "Nobody was logged in" in again.json()["message"]


def test_a_login_lives_for_ninety_days_at_most(api: Api) -> None:
    code = api("POST", "/login-codes", expect=201)["code"]
    for lifetime_s in (0, -1, 91 * 86_400, 1.5, "1", None):
        assert redeem(api, code, lifetime_s=lifetime_s).status_code == 422, lifetime_s
    assert redeem(api, code, lifetime_s=90 * 86_400).status_code == 201, "what is refused does not use it up"


def test_what_comes_of_a_token_by_a_login_code_does_not_outlive_it(api: Api) -> None:
    short = api("POST", "/tokens", {"name": "short", "lifetime_s": 3600}, expect=201)
    ends_ms = short["token"]["expires_at_ms"]
    with with_token(api, short["text"]) as mine:
        codes = [mine.post("/login-codes").json()["code"] for _ in range(2)]
    assert redeem(api, codes[0], lifetime_s=90 * 86_400).json()["token"]["expires_at_ms"] == ends_ms
    used = api.home.store.sessions.use_code(hash_token(codes[1]))
    assert used is not None
    opened = api.home.store.sessions.open(
        "7" * 64, "operator", "csrf", "127.0.0.1", lifetime_s=43_200, until_ms=used.until_ms
    )
    assert (opened.expires_at_ms, opened.until_ms) == (ends_ms, ends_ms)


def test_nobody_logs_in_as_somebody_who_is_shut_out(api: Api) -> None:
    api("POST", "/people", {"name": "eve", "grants": {PRODUCT: "viewer"}}, expect=201)
    with with_token(api, api("POST", "/tokens", {"name": "eves", "person": "eve"}, expect=201)["text"]) as eve:
        code = eve.post("/login-codes").json()["code"]
    api("PATCH", "/people/eve", {"disabled": True})
    assert redeem(api, code).status_code == 403
