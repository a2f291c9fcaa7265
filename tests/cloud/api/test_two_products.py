"""Whoever may look at one product sees nothing of another: in no list, by no id, in no error."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cloud.access.roles import EVERYTHING, Role
from cloud.credentials import TokenDraft
from cloud.values import ChannelKey, ReleaseDraft
from cloud.webhooks.values import WebhookDraft
from protocol.phases import Outcome, Phase, Reason
from protocol.up import AttemptEntry, Entry, Report
from protocol.values import Via
from tests.cloud.homes import MODEL, PRODUCT, Api, open_home, serve_api
from tests.cloud.visitors import OTHER, add_product, join, token_of, visitor

SECRET = "zanzibar"
"""In the name of everything that belongs to the first product: whoever looks at the other one never reads it."""
DEVICE = f"{SECRET}-1"


@dataclass(frozen=True)
class Both:
    """Two products: `thermostat` with one of everything, and a viewer of `pump` who is to see none of it."""

    api: Api
    viewer: Api
    release: str
    ota: str


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with open_home(tmp_path_factory.mktemp("two") / "home") as home, serve_api(home) as api:
        store = home.store
        home.publish("1.1.0", notes=SECRET)
        home.join(DEVICE)
        store.catalog.create_group(PRODUCT, SECRET, by="test")
        draft = ReleaseDraft(channel=ChannelKey(PRODUCT, "everyone", "app"), version="1.1.0", description=SECRET)
        release = store.releases.create(draft, by="test").release_id
        ota = store.devices.create_ota(DEVICE, "app", "1.1.0", by="test").ota_id
        attempt = AttemptEntry(
            attempt_id="a1",
            source_id=release,
            via=Via.RELEASE,
            component="app",
            version="1.1.0",
            digest=store.releases.release(release).firmware.digest,
            phase=Phase.DOWNLOADING,
            outcome=Outcome.FAILED,
            reason=Reason.INSTALL_FAILED,
        )
        report = Report(journal_id="j1", entries=(Entry(seq=1, at_ms=1, attempt=attempt),))
        store.journal.receive_report(DEVICE, report)
        store.redundancy.create_set(f"{SECRET}-pair", by="test")
        store.redundancy.add_to_set(f"{SECRET}-pair", [DEVICE], by="test")
        for name, product in ((f"{SECRET}-hook", PRODUCT), (f"{SECRET}-all", None)):
            store.webhooks.add(WebhookDraft(name=name, url="https://hooks.example/x", product=product), by="test")
        store.enrolment.add(TokenDraft(sha256="5" * 64, product=PRODUCT, name=f"{SECRET}-code"), by="test")
        store.people.add(f"{SECRET}-person", {PRODUCT: Role.OPERATOR}, by="test")
        add_product(home)
        join(home, "pump-1")
        store.catalog.create_group(OTHER, "pilot", by="test")
        store.redundancy.create_set("pumps", by="test")
        store.redundancy.add_to_set("pumps", ["pump-1"], by="test")
        viewer = visitor(api, "looks", {OTHER: Role.ADMIN})
        yield Both(api, viewer, release, ota)


LISTS = (
    *("/products", "/groups", "/firmware", "/releases", "/devices", "/attempts", "/sets", "/webhooks", "/events"),
    *("/enrolment-tokens", "/people", "/tokens", "/metadata"),
)


@pytest.mark.parametrize("path", LISTS)
def test_no_list_shows_anything_of_another_product(both: Both, path: str) -> None:
    whole, seen = json.dumps(both.api("GET", path)), json.dumps(both.viewer("GET", path))
    for name in (SECRET, PRODUCT, both.release, both.ota):
        assert name not in seen
    if path != "/tokens":
        assert PRODUCT in whole, "there is something to be hidden"


def test_what_is_ones_own_is_there(both: Both) -> None:
    assert [it["product"] for it in both.viewer("GET", "/products")] == [OTHER]
    assert [it["device_id"] for it in both.viewer("GET", "/devices")["devices"]] == ["pump-1"]
    assert both.viewer("GET", "/devices")["total"] == 1
    assert {it["product"] for it in both.viewer("GET", "/groups")} == {OTHER}
    assert [it["name"] for it in both.viewer("GET", "/sets")] == ["pumps"]
    assert {it["name"] for it in both.viewer("GET", "/people")} == {"looks", "operator"}
    assert OTHER in {it["role"] for it in both.viewer("GET", "/metadata")["roles"]}


@pytest.mark.parametrize("path", ["/groups", "/firmware", "/releases", "/devices", "/attempts", "/events"])
def test_a_list_of_another_product_is_as_one_of_none(both: Both, path: str) -> None:
    answers = []
    for product in (PRODUCT, "no-such-product"):
        code, why = both.viewer.refusal("GET", path, params={"product": product}, status=404)
        answers.append((code, why.replace(product, "P")))
    assert answers[0] == answers[1]


def test_filters_find_nothing_of_another_product(both: Both) -> None:
    assert both.viewer("GET", "/attempts", params={"device": DEVICE}) == []
    assert both.viewer("GET", "/attempts", params={"source": both.release}) == []
    code, why = both.viewer.refusal("GET", "/devices", params={"group": SECRET[:-1]}, status=404)
    assert SECRET not in why, code
    code, why = both.viewer.refusal("GET", "/releases", params={"group": SECRET}, status=404)
    assert "Did you mean" not in why


def by_id(both: Both) -> list[tuple[str, str, Any]]:
    """Return requests about things of the first product."""
    device, release, new = f"/devices/{DEVICE}", f"/releases/{both.release}", {"product": PRODUCT}
    channel = {"group": "everyone", "component": "app", "version": "1.1.0"}
    return [
        *(("GET", f"{device}{rest}", None) for rest in ("", "/history", "/decisions", "/why", "/timeline")),
        *(("GET", f"{release}{rest}", None) for rest in ("", "/progress", "/rollout", "/needs", "/timeline")),
        ("GET", f"{device}/certificates", None),
        ("GET", f"/otas/{both.ota}", None),
        ("GET", f"/sets/{SECRET}-pair", None),
        ("GET", f"/webhooks/{SECRET}-hook", None),
        ("GET", f"/products/{PRODUCT}", None),
        ("GET", f"/products/{PRODUCT}/matrix", None),
        ("GET", f"/groups/{PRODUCT}/{SECRET}", None),
        ("GET", f"/groups/{PRODUCT}/{SECRET}/devices/{DEVICE}", None),
        ("GET", f"/groups/{OTHER}/pilot/devices/{DEVICE}", None),
        ("GET", f"/firmware/{PRODUCT}/app/1.1.0", None),
        ("GET", f"/metadata/{PRODUCT}.json", None),
        ("GET", f"/metadata/1.{PRODUCT}.json", None),
        ("POST", f"/groups/{OTHER}/trial", {"query": "online", "device_id": DEVICE}),
        ("POST", "/releases", new | channel),
        ("POST", "/releases/forecast", new | channel),
        ("POST", "/releases/plan", new | channel),
        ("POST", "/groups", new | {"group": "mine"}),
        ("POST", "/devices", new | {"device_id": "mine", "hardware_model": MODEL}),
        ("POST", "/fleet/import", {"devices": [{"line": 1, "device_id": "mine", "product": PRODUCT}]}),
        ("POST", "/enrolment-tokens", new | {"token_sha256": "7" * 64}),
        ("POST", "/webhooks", new | {"name": "mine", "url": "https://hooks.example/y"}),
        ("POST", "/sets/pumps/members", {"add": [DEVICE]}),
        ("POST", f"/groups/{OTHER}/pilot/members", {"add": [DEVICE]}),
        ("POST", f"/groups/{OTHER}/pilot/members", {"remove": [DEVICE]}),
        ("POST", "/devices/bulk", {"product": OTHER, "deed": "revoke", "devices": [DEVICE], "count": 1}),
        ("POST", "/devices/bulk", new | {"deed": "revoke", "devices": [DEVICE], "count": 1}),
        ("POST", f"/sets/{SECRET}-pair/members", {"add": ["pump-1"]}),
        ("POST", f"/releases/{both.release}/pause", {}),
        ("POST", f"{device}/revoke", {}),
        ("DELETE", f"/enrolment-tokens/{SECRET}-code", None),
        ("DELETE", f"/sets/{SECRET}-pair", None),
        ("PUT", f"/people/looks/grants/{PRODUCT}", {"role": "viewer"}),
        ("POST", "/tokens", {"name": "mine", "product": PRODUCT}),
    ]


def test_by_id_a_thing_of_another_product_is_as_one_that_is_not_there(both: Both) -> None:
    before = both.api("GET", "/audit/head")
    for method, path, body in by_id(both):
        answers = []
        for absent in (False, True):
            there, sent = path, json.dumps(body)
            if absent:
                for name in (DEVICE, f"{SECRET}-pair", f"{SECRET}-hook", f"{SECRET}-code", SECRET):
                    there, sent = there.replace(name, "absent"), sent.replace(name, "absent")
                for name in (both.release, both.ota, PRODUCT):
                    there, sent = there.replace(name, "absent"), sent.replace(name, "absent")
            code, why = both.viewer.refusal(method, there, json.loads(sent), status=404)
            for name in (DEVICE, f"{SECRET}-pair", f"{SECRET}-hook", f"{SECRET}-code", both.release, both.ota, PRODUCT):
                why = why.replace(name, "absent")
            answers.append((code, why))
        assert answers[0] == answers[1], f"{method} {path} tells that it is there"
        assert SECRET not in answers[0][1]
        assert "Did you mean" not in answers[0][1]
    assert both.api("GET", "/audit/head") == before, "nothing was changed"


def test_the_audit_metrics_and_authorities_are_for_who_may_look_at_everything(both: Both) -> None:
    for path in ("/audit", "/audit/head", "/audit/export", "/metrics", "/authorities"):
        assert both.viewer.refusal("GET", path, status=403)[0] == "not_allowed"
        auditor = token_of(both.api, f"auditor{path.replace('/', '-')}", "operator", role=Role.VIEWER)
        assert auditor.http.get(path).status_code == 200


def test_a_token_for_one_product_hides_the_others_of_its_person(both: Both) -> None:
    seen = token_of(both.api, "narrow", "operator", product=OTHER)
    assert [it["product"] for it in seen("GET", "/products")] == [OTHER]
    assert seen.refusal("GET", f"/devices/{DEVICE}", status=404)[0] == "not_found"
    assert seen.refusal("GET", "/audit", status=403)[0] == "not_allowed"


def test_a_person_without_a_role_sees_nothing_at_all(both: Both) -> None:
    nobody = visitor(both.api, "without-a-role", {})
    for path in LISTS:
        if path != "/tokens":
            assert nobody.refusal("GET", path, status=403)[0] == "not_allowed"
    assert nobody("GET", "/me")["grants"] == {}


def test_who_may_look_at_everything_is_told_what_they_may_have_meant(both: Both) -> None:
    everything = visitor(both.api, "looks-at-everything", {EVERYTHING: Role.VIEWER})
    assert f"Did you mean {DEVICE!r}" in everything.refusal("GET", f"/devices/{SECRET}-2", status=404)[1]
