"""Logging in and out, and what guards a session."""

import hashlib
import json
import re
from urllib.parse import unquote

import pytest

from cloud.access.roles import Role
from cloud.console import assets
from cloud.console.forms import is_mask_of, mask
from cloud.console.visiting import MAX_COOKIE, flash_of
from tests.cloud.console.visits import PASSWORD, anonymous, login_code, reading
from tests.cloud.homes import Api


def test_whoever_is_not_logged_in_is_asked_to_and_then_shown_what_they_asked_for(api: Api) -> None:
    with reading(api, "ann"), anonymous(api) as reader:
        page = reader.get("/?look=here")
        assert page.title == "Fleetlift"
        assert page.path == "/login?next=%2F%3Flook%3Dhere"
        page = page.submit("Log in", {"Name": "ann", "Password": PASSWORD})
        assert page.path == "/?look=here"
        assert page.title == "Overview"


@pytest.mark.parametrize("name", ["ann", "nobody", ""])
def test_a_wrong_password_and_a_wrong_name_are_told_alike(api: Api, name: str) -> None:
    with reading(api, "ann"), anonymous(api) as reader:
        page = reader.log_in(name, "wrong wrong wrong", expect=401)
        assert "do not belong together" in page.text
        assert reader.get("/").path.startswith("/login")


def test_many_wrong_passwords_have_to_wait(api: Api) -> None:
    with reading(api, "ann"), anonymous(api) as reader:
        answers = [
            reader.get("/login").reader.http.post("/login", data={"name": "ann", "password": "x"}) for _ in range(12)
        ]
        assert {it.status_code for it in answers[:8]} == {401}
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["Retry-After"]) > 0


def test_a_code_of_the_command_line_opens_the_console_once(api: Api) -> None:
    with reading(api, "ann"), anonymous(api) as first, anonymous(api) as second:
        code = login_code(api, "ann")
        page = first.get(f"/login?code={code}")
        assert page.title == "Fleetlift", "looking at the link does not spend it"
        assert page.submit("Open the console").title == "Overview"
        assert "used already" in second.get(f"/login?code={code}").submit("Open the console", expect=401).text


def test_a_session_that_a_token_let_in_makes_none_that_outlives_that_token(api: Api) -> None:
    short = api("POST", "/tokens", {"name": "short", "lifetime_s": 3600}, expect=201)
    headers = {"Authorization": f"Bearer {short['text']}"}
    code = api.http.post("/login-codes", headers=headers).json()["code"]
    with anonymous(api) as reader:
        assert reader.get(f"/login?code={code}").submit("Open the console").title == "Overview"
        reader.get("/people/operator").submit("Make a token", {"Name": "long", "Good for": "365"})
        made = next(it for it in api("GET", "/tokens") if it["name"] == "long")
        assert made["expires_at_ms"] == short["token"]["expires_at_ms"]


def test_after_logging_out_the_cookie_is_worth_nothing(api: Api) -> None:
    with reading(api, "ann") as reader:
        kept = dict(reader.http.cookies)
        reader.get("/").submit("Log out")
        reader.http.cookies.update(kept)
        assert reader.get("/").path.startswith("/login")


def test_somebody_who_was_disabled_is_out_at_once(api: Api) -> None:
    with reading(api, "ann") as reader:
        reader.get("/")
        api.backend.store.people.disable("ann", by="test")
        assert reader.get("/").path.startswith("/login")


def test_forms_of_other_sessions_and_of_other_sites_do_nothing(api: Api) -> None:
    with reading(api, "ann") as reader, reading(api, "ben", Role.VIEWER) as other:
        foreign = other.get("/").one("form[action='/logout'] input[name=csrf]")["value"]
        assert reader.http.post("/logout", data={"csrf": foreign}).status_code == 403
        assert reader.http.post("/logout").status_code == 403
        own = reader.get("/").one("form[action='/logout'] input[name=csrf]")["value"]
        answer = reader.http.post("/logout", data={"csrf": own}, headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 403
        answer = reader.http.post("/logout", data={"csrf": own}, headers={"Origin": "http://elsewhere.test"})
        assert answer.status_code == 403
        assert reader.get("/").title == "Overview"


@pytest.mark.parametrize(
    "there", ["//elsewhere.test/", "http://elsewhere.test/", "/\\elsewhere.test", "\\\\elsewhere.test"]
)
def test_logging_in_leads_nowhere_else(api: Api, there: str) -> None:
    with reading(api, "ann"), anonymous(api) as reader:
        fields = [("name", "ann"), ("password", PASSWORD), ("next", there)]
        assert reader.send("post", "/login", fields).path == "/"


def test_a_page_allows_no_scripts_but_its_own_and_no_frames(api: Api) -> None:
    with anonymous(api) as reader:
        answer = reader.get("/login").answer
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:", answer.text)


def test_the_cookie_is_for_nobody_else(api: Api) -> None:
    with reading(api, "ann"), anonymous(api) as reader:
        answer = reader.http.post("/login", data={"name": "ann", "password": PASSWORD}, follow_redirects=False)
        said = answer.headers["set-cookie"].lower()
        assert "httponly" in said
        assert "samesite=lax" in said
        kept = api.backend.store.sessions
        cookie = reader.http.cookies["fleetlift_session"]
        assert kept.find(cookie) is None, "what is kept is a hash"


def test_the_api_takes_no_cookie_and_the_console_no_token(api: Api) -> None:
    with reading(api, "ann") as reader:
        assert reader.http.get("/api/v1/products").status_code == 401
    with anonymous(api) as reader:
        answer = reader.http.get("/", headers=dict(api.http.headers))
        assert answer.url.path == "/login"


@pytest.mark.parametrize("character", ["a", " ", "ä", "\N{GRINNING FACE}", '"'])
def test_what_the_next_page_says_fits_into_a_cookie(character: str) -> None:
    for length in (10, 300, 3000, 100_000):
        for said, cli in ((character * length, ""), ("Done.", character * length)):
            value = flash_of(said, "error", cli, "conflict")
            assert len(value) <= MAX_COOKIE
            told = json.loads(unquote(value))
            assert told["text"].startswith(said[:299]), "the sentence stays before the command"
            assert told["code"] == "conflict"


def test_a_csrf_token_looks_different_each_time() -> None:
    shown = {mask("a secret") for _ in range(20)}
    assert len(shown) == 20
    assert all(is_mask_of(it, "a secret") for it in shown)
    assert not any(is_mask_of(it, "a secreT") for it in shown)
    assert not is_mask_of("", "a secret")
    assert not is_mask_of("é", "a secret")


def test_vendored_files_are_what_their_list_says() -> None:
    vendored = assets.ROOT / "vendor"
    rows = re.findall(r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", (vendored / "VENDORED.md").read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == {it.name for it in vendored.iterdir() if it.suffix in (".js", ".css")}
    for name, digest in rows:
        assert hashlib.sha256((vendored / name).read_bytes()).hexdigest() == digest, name


def test_static_files_are_kept_and_small(api: Api) -> None:
    with anonymous(api) as reader:
        page = reader.get("/login")
        link = str(page.one("link[rel=stylesheet]")["href"])
        answer = reader.http.get(link)
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Encoding"] == "gzip"
        assert reader.http.get(link.replace("console.css", "../app.py")).status_code == 404
        assert reader.http.get("/static/0/vendor/VENDORED.md").status_code == 404
