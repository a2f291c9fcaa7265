"""Every role at every route, on a real server with a real store: what a role may is written here once more, by hand."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from cloud.access.roles import EVERYTHING, Role
from cloud.access.rules import RULES
from cloud.credentials import TokenDraft
from cloud.values import ChannelKey, ReleaseDraft
from cloud.webhooks.values import WebhookDraft
from tests.cloud.homes import PRODUCT, Api, OpenHome, open_home, serve_api
from tests.cloud.visitors import OTHER, Route, add_product, join, routes_of, token_of, visitor

VIEWER, OPERATOR, MANAGER, ADMIN = Role.VIEWER, Role.OPERATOR, Role.RELEASE_MANAGER, Role.ADMIN
WITHOUT_TOKEN: Final = {"show_trust", "enrol", "renew", "live", "ready", "redeem_login_code"}
"""What devices come to with a token of their own and people with a code, and probes."""
EVERYBODY: Final = {"show_system", "show_me", "list_tokens", "create_token", "create_login_code"}
SERVER: Final = {
    VIEWER: {"list_audit", "show_audit_head", "verify_audit", "export_audit", "show_metrics", "list_authorities"}
    | {"list_dependants", "show_person"},
    ADMIN: {"create_product", "accept_metadata", "prepare_online_key", "rotate_authority", "retire_authority"}
    | {"add_person", "change_person", "set_password", "revoke_token"},
}
"""What takes a role for everything (`show_person`, `set_password` and `revoke_token` are asked for somebody else's)."""
PRODUCTS: Final = {
    VIEWER: {"list_products", "list_groups", "list_firmware", "list_releases", "list_devices", "list_attempts"}
    | {"list_sets", "list_webhooks", "list_enrolment_tokens", "list_events", "list_people"}
    | {"show_blob", "show_standing", "show_metadata", "show_product", "show_group", "explain_match", "try_query"}
    | {"show_firmware", "show_matrix", "show_device", "show_history", "show_decisions", "show_why"}
    | {"show_device_timeline", "list_certificates", "show_release", "show_progress", "show_rollout", "show_needs"}
    | {"show_release_timeline", "show_waiting", "show_ota", "show_set", "show_webhook"}
    | {"show_fleet", "list_attention", "show_fleet_history", "show_running"},
    OPERATOR: {"enrol_device", "prepare_devices", "import_fleet", "create_enrolment_token", "revoke_enrolment_token"}
    | {"lock_device", "unlock_device", "revoke_device", "take_turn_away", "create_ota", "cancel_ota"}
    | {"change_devices"}
    | {"change_members", "change_set_members", "forecast_release", "plan_release", "check_plan", "find_same_release"}
    | {"pause_release", "resume_release", "abort_rollout", "retry_release"},
    MANAGER: {"put_blob", "publish_role", "create_release", "release_by_plan", "roll_back", "promote_release"}
    | {"advance_rollout", "approve_rollout", "create_group", "change_group", "delete_group", "create_set"}
    | {"delete_set", "patch_release"},
    ADMIN: {"change_product", "add_webhook", "change_webhook", "remove_webhook", "try_webhook"}
    | {"set_grant", "withdraw_grant"},
}
"""What takes a role for the product that it is about."""

ANYWHERE: Final = {name for name in PRODUCTS[VIEWER] if name.startswith("list_") and name != "list_certificates"} | {
    *("show_blob", "show_standing", "show_metadata", "put_blob", "create_set", "show_fleet", "show_fleet_history")
}
"""What a role for any product is enough for: lists show what belongs to one's own."""


@dataclass(frozen=True)
class Place:
    """A home with one of everything, and what stands in the paths of the routes."""

    api: Api
    path: dict[str, str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with open_home(tmp_path_factory.mktemp("roles") / "home") as home, serve_api(home) as api:
        yield Place(api, furnish(home))


def furnish(home: OpenHome, product: str = PRODUCT, device: str = "pi-1") -> dict[str, str]:
    """Make one of everything; return what stands in the paths of the routes."""
    store = home.store
    if product == PRODUCT:
        home.publish("1.1.0")
        home.join(device)
        made = store.releases.create(
            ReleaseDraft(channel=ChannelKey(product, "everyone", "app"), version="1.1.0"), by="test"
        ).release_id
        ota = store.devices.create_ota(device, "app", "1.1.0", by="test").ota_id
    else:
        join(home, device, product)
        made = ota = "none"
    store.catalog.create_group(product, f"{product}-pilot", by="test")
    store.redundancy.create_set(f"{product}-pair", by="test")
    store.redundancy.add_to_set(f"{product}-pair", [device], by="test")
    store.webhooks.add(WebhookDraft(name=f"{product}-hook", url="https://hooks.example/x", product=product), by="test")
    store.enrolment.add(
        TokenDraft(sha256=product.encode().hex().ljust(64, "0"), product=product, name=f"{product}-code"), by="test"
    )
    return {
        "product": product,
        "device_id": device,
        "release_id": made,
        "ota_id": ota,
        "group": f"{product}-pilot",
        "set": f"{product}-pair",
        "webhook": f"{product}-hook",
        "enrolment-token": f"{product}-code",
    }


def ask(api: Api, place: Place, route: Route) -> int:
    """Send a request that says what it is about, and that is refused further in for something else; its status."""
    kind = route.path.split("/")[3]
    names = {
        "product": PRODUCT,
        "component": "app",
        "version": "1.1.0",
        "digest": hashlib.sha256(b"image of 1.1.0").hexdigest(),
        "plan_hash": "0" * 64,
        "kind": "devices",
        "device_id": "pi-1",
        **place.path,
        "name": {
            "sets": place.path["set"],
            "webhooks": place.path["webhook"],
            "people": "somebody",
            "enrolment-tokens": place.path["enrolment-token"],
            "tokens": "somebodys",
            "metadata": "root.json",
        }.get(kind, "none"),
    }
    body = None
    if route.method in ("POST", "PATCH", "PUT"):
        body = {"product": PRODUCT, "devices": [{"product": PRODUCT}], "root": "{}", "nobody-knows-this": 1}
    answer = api.http.request(
        route.method, route.path.removeprefix("/api/v1").format(**names), json=body, params={"wait": 0}
    )
    return answer.status_code


@pytest.fixture(scope="module")
def visitors(place: Place) -> dict[tuple[str, Role | None], Api]:
    api = place.api
    add_product(api.home)
    api.home.store.people.add("somebody", {}, by="test")
    token_of(api, "somebodys", "somebody")
    found: dict[tuple[str, Role | None], Api] = {("nothing", None): visitor(api, "nobody", {})}
    for role in Role:
        short = role.value.replace("_", "-")
        found["product", role] = visitor(api, f"product-{short}", {PRODUCT: role})
        found["everything", role] = visitor(api, f"everything-{short}", {EVERYTHING: role})
        found["other", role] = visitor(api, f"other-{short}", {OTHER: role})
        found["scoped", role] = token_of(api, f"scoped-{short}", f"everything-{short}", product=PRODUCT)
        found["capped", role] = token_of(api, f"capped-{short}", "operator", role=role)
    return found


def least(operation: str, table: dict[Role, set[str]]) -> Role | None:
    return next((role for role, names in table.items() if operation in names), None)


def test_the_table_of_this_test_the_rules_and_the_routes_name_the_same_operations(place: Place) -> None:
    tabled = [*EVERYBODY, *(name for table in (SERVER, PRODUCTS) for names in table.values() for name in names)]
    routes = {route.name for route in routes_of(place.api)} - WITHOUT_TOKEN
    assert len(tabled) == len(set(tabled))
    assert set(tabled) == routes == set(RULES)


def is_allowed(operation: str, where: str, role: Role | None) -> bool:
    if operation == "create_login_code":
        return where not in ("scoped", "capped") or (where, role) == ("capped", ADMIN)  # a session is all of its person
    if operation in EVERYBODY:
        return True
    for_server, for_product = least(operation, SERVER), least(operation, PRODUCTS)
    needed = for_server or for_product
    if role is None or needed is None or not role.covers(needed):
        return False
    if operation in ANYWHERE:
        return True
    return where in ("everything", "capped") or (for_server is None and where in ("product", "scoped"))


def test_each_role_may_at_each_route_what_the_table_says_and_nothing_else(
    place: Place, visitors: dict[tuple[str, Role | None], Api]
) -> None:
    wrong = []
    for route in sorted(routes_of(place.api), key=lambda it: it.method == "DELETE"):
        if route.name in WITHOUT_TOKEN:
            continue
        for (where, role), api in visitors.items():
            status = ask(api, place, route)
            # Who may not even look at a product is told that there is no such thing.
            refused = status == 403 or (status == 404 and where in ("other", "nothing"))
            if is_allowed(route.name, where, role) == refused or status in (401, 405, 429, 500):
                wrong.append(f"{route.name} as {role} of {where}: {status}")
    assert not wrong, "\n".join(wrong)


def test_a_route_without_a_rule_is_for_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.api.access.RULES", {name: rule for name, rule in RULES.items() if name != "show_me"})
    assert place.api.refusal("GET", "/me", status=403)[0] == "not_allowed"


def test_an_operator_disables_a_release_and_changes_nothing_else_of_it(
    place: Place, visitors: dict[tuple[str, Role | None], Api]
) -> None:
    operator, manager = visitors["product", OPERATOR], visitors["product", MANAGER]
    path = f"/releases/{place.path['release_id']}"
    for body in ({"enabled": True}, {"percentage": 50}, {"enabled": False, "description": "x"}, {}):
        assert operator.refusal("PATCH", path, body, status=403)[0] == "not_allowed", body
    assert operator("PATCH", path, {"enabled": False})["release"]["enabled"] is False
    _, why = operator.refusal("PATCH", path, {"enabled": True}, status=403)
    assert "takes the role release manager for product thermostat" in why
    assert "Nothing was changed" in why
    assert manager("PATCH", path, {"enabled": True})["release"]["enabled"] is True


def test_forcing_takes_a_release_manager(place: Place, visitors: dict[tuple[str, Role | None], Api]) -> None:
    body = {"component": "app", "version": "1.1.0", "forced": True}
    operator, manager = visitors["product", OPERATOR], visitors["product", MANAGER]
    assert operator.refusal("POST", "/devices/pi-1/ota", body, status=403)[0] == "not_allowed"
    operator("POST", "/devices/pi-1/ota", body | {"forced": False}, expect=201)
    assert manager("POST", "/devices/pi-1/ota", body, expect=201)["ota"]["forced"] is True


def test_what_is_decided_on_is_what_is_done(place: Place, visitors: dict[tuple[str, Role | None], Api]) -> None:
    """A body that says a product twice, or is sent as something else than JSON, is no way around a rule."""
    admin = visitors["product", ADMIN]
    twice = f'{{"product": "{PRODUCT}", "group": "sly", "product": "{OTHER}"}}'
    answer = admin.http.post("/groups", content=twice, headers={"Content-Type": "application/json"})
    assert answer.status_code == 404, answer.text
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/vnd.x+json"):
        answer = admin.http.post(
            "/groups", content=f'{{"product": "{OTHER}", "group": "sly"}}', headers={"Content-Type": kind}
        )
        assert answer.status_code in (404, 422), answer.text
    assert "sly" not in {it["group"] for it in place.api("GET", "/groups")}
