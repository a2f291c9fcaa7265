"""People and tokens in the console: roles, passwords, being shut out, and a token's text that is shown once."""

from __future__ import annotations

from cloud.access.passwords import hash_password
from cloud.access.roles import Role
from tests.cloud.console.releasing import parses
from tests.cloud.console.visits import PASSWORD, anonymous, reading
from tests.cloud.homes import PRODUCT, Api

NEW = "another horse, another staple"


def person(api: Api, name: str) -> dict[str, object]:
    found: dict[str, object] = api("GET", f"/people/{name}")
    return found


def test_somebody_is_made_known_and_given_roles(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/people").submit("Make known", {"Name": "ben", "Role": "operator", "For": PRODUCT})
        parses(page)
        assert page.title == "ben"
        assert page.said.startswith("ben is known. Next: a password, or a token.")
        page = page.submit("Give the role", {"Role": "viewer", "For": ""})
        parses(page)
        assert page.said.startswith("ben is viewer everywhere.")
        assert person(api, "ben")["grants"] == {"*": "viewer", PRODUCT: "operator"}
        everybody = {row[0]: row[1] for row in ann.get("/people").rows()}
        assert everybody["ben"] == "viewer everywhere operator of thermostat"
        again = ann.get("/people").submit("Make known", {"Name": "ben"}, expect=422)
        assert again.one("#f-name")["value"] == "ben"


def test_a_role_is_withdrawn_but_never_the_last_admins(api: Api) -> None:
    api("POST", "/people", {"name": "ben", "grants": {PRODUCT: "viewer"}}, expect=201)
    api("PATCH", "/people/operator", {"disabled": False})
    with reading(api) as ann:
        page = ann.get("/people/ben").submit("Take the role away")
        parses(page)
        assert person(api, "ben")["grants"] == {}
        api.home.store.people.disable("operator", by="ann")
        refused = ann.get("/people/ann").submit("Take the role away")
        assert "admin" in refused.said
        assert "Nothing was changed" in refused.said or "nothing was changed" in refused.said
        assert "admin everywhere" in refused.text


def test_who_is_shut_out_is_out_at_once(api: Api) -> None:
    with reading(api) as ann, reading(api, "ben", Role.OPERATOR) as ben:
        page = ann.get("/people/ben").submit("Shut out")
        parses(page)
        assert page.said.startswith("ben is shut out")
        assert ben.get("/groups").path.startswith("/login")
        ben.log_in("ben", expect=401)
        assert page.submit("Let in again").said.startswith("ben may come in again")
        ben.log_in("ben")
        assert ben.get("/groups").title == "Groups"


def test_one_changes_ones_own_password_with_the_present_one(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/people/ann")
        fields = {"Password that you have now": "wrong", "New password": NEW, "New password again": NEW}
        wrong = page.submit("Set the password", fields, expect=422)
        assert "is not the password that you have now" in wrong.said
        assert NEW not in wrong.answer.text
        differ = page.submit("Set the password", fields | {"New password again": NEW[:-1]}, expect=422)
        assert "The two are not the same. Nothing was changed" in differ.said
        short = {"Password that you have now": PASSWORD, "New password": "short", "New password again": "short"}
        assert "at least 12 characters" in page.submit("Set the password", short, expect=422).said
        good = fields | {"Password that you have now": PASSWORD}
        assert page.submit("Set the password", good).path.startswith("/login")
        ann.log_in("ann", expect=401)
        assert ann.log_in("ann", NEW).title == "Overview"


def test_passwords_are_tried_ten_times(api: Api) -> None:
    with reading(api) as ann:
        page = ann.get("/people/ann")
        fields = {"Password that you have now": "wrong", "New password": NEW, "New password again": NEW}
        said = [page.submit("Set the password", fields, expect=422).said for _ in range(11)]
        assert "too many tries" in said[-1]
        assert "too many tries" not in said[0]


def test_an_admin_sets_and_takes_others_passwords(api: Api) -> None:
    api("POST", "/people", {"name": "ben", "grants": {"*": "viewer"}}, expect=201)
    with reading(api) as ann, anonymous(api) as ben:
        page = ann.get("/people/ben").submit("Set the password", {"New password": NEW, "New password again": NEW})
        parses(page)
        ben.log_in("ben", NEW)
        assert ben.get("/groups").title == "Groups"
        page = page.submit("Take it away")
        assert page.said.startswith("ben has no password any more.")
        assert ben.get("/groups").path.startswith("/login"), "sessions end with it"


def test_a_tokens_text_is_shown_once_and_works(api: Api) -> None:
    with reading(api) as ann:
        fields = {"Name": "pipeline", "May do at most": "release_manager", "Where": PRODUCT, "Good for": "30"}
        shown = ann.get("/people/ann").submit("Make a token", fields)
        text = next(line for line in shown.cli() if line.startswith("flt_"))
        assert shown.title == "Token pipeline"
        assert "set-cookie" not in shown.answer.headers, "it is in no cookie"
        assert shown.answer.headers["Cache-Control"] == "no-store"
        me = api("GET", "/me", headers={"Authorization": f"Bearer {text}"})
        assert (me["name"], me["role"], me["product"]) == ("ann", "release_manager", PRODUCT)
        page = ann.get("/people/ann")
        assert text not in page.answer.text
        assert page.rows("#tokens table")[0][:2] == ["pipeline", "release manager of thermostat"]
        page = page.submit("Revoke the token")
        parses(page)
        assert page.said.startswith("The token pipeline opens nothing any more.")
        api("GET", "/me", headers={"Authorization": f"Bearer {text}"}, expect=401)
        again = page.submit("Make a token", fields, expect=422)
        assert again.one("#f-token")["value"] == "pipeline", "a name is used once"


def test_one_without_any_role_sees_oneself_alone(api: Api) -> None:
    api.home.store.people.add("eve", {}, by="test")
    api.home.store.people.set_password("eve", hash_password(PASSWORD), by="test")
    with anonymous(api) as eve:
        eve.get("/login").submit("Log in", {"Name": "eve", "Password": PASSWORD}, expect=403)
        page = eve.get("/people/eve")
        assert "may look at nothing yet" in page.text
        assert not page.has("form[action$='/grants']")
        eve.get("/people/operator", expect=403)


def test_an_admin_of_a_product_gives_roles_of_that_alone(api: Api) -> None:
    api("POST", "/people", {"name": "cat", "grants": {PRODUCT: "viewer"}}, expect=201)
    with reading(api, "ben", Role.ADMIN, PRODUCT) as ben:
        page = ben.get("/people/cat")
        assert [option["value"] for option in page.soup.select("#grant-product option")] == [PRODUCT]
        assert page.submit("Give the role", {"Role": "operator"}).said.startswith("cat is operator of thermostat.")
        assert not page.has("form[action$='/password']")
        csrf = page.soup.select("input[name=csrf]")[0]["value"]
        sent = {"csrf": csrf, "role": "admin", "product": "*"}
        assert ben.http.post("/people/cat/grants", data=sent).status_code in (403, 404)
        sent = {"csrf": csrf, "password": NEW, "again": NEW}
        assert ben.http.post("/people/cat/password", data=sent).status_code == 403
        assert person(api, "cat") == person(api, "cat") | {"grants": {PRODUCT: "operator"}, "has_password": False}
