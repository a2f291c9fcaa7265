"""The API of trust: what stands, and the way in for what offline keys signed; nothing half-taken, all of it audited."""

from collections.abc import Callable
from typing import Any

import pytest

from cloud.keys.changes import ONLINE, Changes
from cloud.keys.drafts import Draft
from cloud.values import OutboxKind
from tests.cloud.homes import MODEL, PRODUCT, Api, OpenHome

Bad = Callable[[dict[str, Any]], object]


def changes_of(home: OpenHome) -> Changes:
    home.keyring.known.follow(home.repository.metadata)
    return Changes(home.keyring.known)


def body_of(home: OpenHome, changes: Changes) -> dict[str, Any]:
    draft: Draft = changes.draft().signed(home.keyring.known, home.keyring.signers)[0]
    pieces = {name: piece.to_bytes().decode() for name, piece in draft.pieces.items()}
    top = {name: pieces.pop(name) for name in ("root", "targets") if name in pieces}
    return top | {"roles": pieces}


def renewal(home: OpenHome, *roles: str) -> dict[str, Any]:
    changes = changes_of(home)
    for role in roles:
        changes.renew(role)
    return body_of(home, changes)


def versions(page: dict[str, Any]) -> dict[str, int]:
    return {role["role"]: role["version"] for role in page["roles"]}


def test_who_signs_what_is_told(home: OpenHome, api: Api) -> None:
    page = api("GET", "/metadata")
    assert [role["role"] for role in page["roles"]] == ["root", "targets", PRODUCT, "snapshot", "timestamp"]
    root = page["roles"][0]
    assert (root["threshold"], len(root["keys"]), root["renewed_by"], root["due"]) == (2, 3, "operator", False)
    assert all(key["signed"] for role in page["roles"] for key in role["keys"])
    assert page["next_online_key"] is None
    assert page["roles"][-1]["keys"][0]["keyid"] == page["online_key"]["keyid"]


def test_root_targets_and_a_role_are_taken_together(home: OpenHome, api: Api) -> None:
    answer = api("PUT", "/metadata", renewal(home, "root", "targets", PRODUCT))
    assert sorted(answer["accepted"]) == ["root", "targets", PRODUCT]
    assert versions(answer["metadata"])["root"] == 2
    for subject in ("root", "targets", PRODUCT):
        row = home.store.audit.last(f"metadata/{subject}")
        assert row is not None
        assert (row.action, row.actor) == ("metadata.accepted", "operator")
        assert row.after["version"] == versions(answer["metadata"])[subject]


def test_the_same_again_changes_and_audits_nothing(home: OpenHome, api: Api) -> None:
    body = renewal(home, "root", PRODUCT)
    api("PUT", "/metadata", body)
    rows = len(home.store.audit.rows())
    assert api("PUT", "/metadata", body)["accepted"] == []
    assert len(home.store.audit.rows()) == rows


def test_a_new_root_has_everything_told_again(home: OpenHome, api: Api) -> None:
    home.publish("1.0.0")
    channel = {"product": PRODUCT, "group": "everyone", "component": "app"}
    api("POST", "/releases", channel | {"version": "1.0.0"}, expect=201)
    for item in home.store.outbox.take():
        home.store.outbox.settle(item)
    api("PUT", "/metadata", renewal(home, "root"))
    marked = {(item.kind, item.key) for item in home.store.outbox.take()}
    assert marked == {(OutboxKind.BUNDLE, PRODUCT), (OutboxKind.NOTICE, f"{PRODUCT}/everyone/app")}


def _unsign(body: dict[str, Any]) -> None:
    body["root"] = body["root"].replace('"sig":"', '"sig":"00', 2)


def _strange_product(body: dict[str, Any]) -> None:
    body["roles"] = {"kettle": body["roles"][PRODUCT]}


def _swap(body: dict[str, Any]) -> None:
    body["root"], body["targets"] = body["targets"], body["root"]


def _number(body: dict[str, Any]) -> None:
    body["root"] = 7


def _unknown(body: dict[str, Any]) -> None:
    body["snapshot"] = "{}"


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (_unsign, 422, "untrusted"),
        (_strange_product, 404, "not_found"),
        (_swap, 422, "untrusted"),
        (_number, 422, "invalid"),
        (_unknown, 422, "invalid"),
    ],
)
def test_what_is_not_good_as_a_whole_is_not_taken_in_part(
    home: OpenHome, api: Api, spoil: Bad, status: int, code: str
) -> None:
    body = renewal(home, "root", "targets", PRODUCT)
    before = (versions(api("GET", "/metadata")), len(home.store.audit.rows()))
    spoil(body)
    said, _ = api.refusal("PUT", "/metadata", body, status=status)
    assert said == code
    assert (versions(api("GET", "/metadata")), len(home.store.audit.rows())) == before


def test_somebody_elses_change_came_first(home: OpenHome, api: Api) -> None:
    first, second = renewal(home, "root"), None
    changes = changes_of(home)
    changes.set_threshold("root", 3)
    second = body_of(home, changes)
    api("PUT", "/metadata", first)
    assert api.refusal("PUT", "/metadata", second, status=409)[0] == "conflict"


def test_the_server_makes_its_next_key_once_and_signs_with_it_when_root_says_so(home: OpenHome, api: Api) -> None:
    made = api("POST", "/metadata/online-key", {}, expect=201)
    assert api("POST", "/metadata/online-key", {}, expect=201) == made == api("GET", "/metadata")["next_online_key"]
    assert [row.action for row in home.store.audit.rows(subject="metadata/online")] == ["online_key.made"]
    changes = changes_of(home)
    following = home.repository.standing().next_online_key
    assert following is not None
    changes.add_key(ONLINE, following)
    page = api("PUT", "/metadata", body_of(home, changes))["metadata"]
    assert [key["signed"] for key in page["roles"][-1]["keys"]] == [True, True]
    changes = changes_of(home)
    changes.revoke_key(ONLINE, page["online_key"]["keyid"])
    page = api("PUT", "/metadata", body_of(home, changes))["metadata"]
    assert (page["online_key"]["keyid"], page["next_online_key"]) == (made["keyid"], None)


def test_what_a_crash_kept_from_the_audit_is_written_at_the_next_start(home: OpenHome) -> None:
    home.repository.accept_root(home.keyring.renew_root())
    home.intake.reconcile(by="server")
    row = home.store.audit.last("metadata/root")
    assert row is not None
    assert (row.actor, row.after["version"]) == ("server", 2)
    home.intake.reconcile(by="server")
    assert home.store.audit.last("metadata/root") == row


def test_products_are_made_under_a_root_that_is_not_the_first(home: OpenHome, api: Api) -> None:
    api("PUT", "/metadata", renewal(home, "root"))
    home.keyring.known.follow(home.repository.metadata)
    delegation = home.keyring.delegate("doorbell")
    body = {"product": "doorbell", "hardware_models": [MODEL]}
    api(
        "POST",
        "/products",
        body | {"targets": delegation.targets.decode(), "role": delegation.role.decode()},
        expect=201,
    )
    assert "doorbell" in versions(api("GET", "/metadata"))
