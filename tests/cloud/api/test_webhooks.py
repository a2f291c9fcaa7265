"""Webhooks, timelines and metrics over the API: what is told, and what never is."""

import stat

import pytest

from cloud.webhooks.letters import new_secret
from tests.cloud.homes import PRODUCT, Api, OpenHome

HOOK = {"name": "pager", "url": "https://pager.example/in"}


@pytest.fixture(autouse=True)
def published(home: OpenHome) -> None:
    home.publish("1.0.0")


def test_a_secret_is_told_once_by_who_made_it(api: Api) -> None:
    made = api("POST", "/webhooks", HOOK, expect=201)
    secret = made["secret"]
    assert secret.startswith("whsec_")
    path = api.home.home.webhooks / "pager"
    assert (path.read_text().strip(), stat.S_IMODE(path.stat().st_mode)) == (secret, 0o600)
    own = new_secret()
    assert api("POST", "/webhooks", HOOK | {"name": "own", "secret": own}, expect=201)["secret"] is None
    told = api.http.get("/webhooks").text + api.http.get("/webhooks/own").text + api.http.get("/audit").text
    assert secret not in told
    assert own not in told
    assert api.refusal("POST", "/webhooks", HOOK, status=409)[0] == "conflict"
    assert path.read_text().strip() == secret


@pytest.mark.parametrize("secret", ["", "hunter2", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "whsec_\u00e9"])
def test_a_secret_that_is_none_is_refused_and_not_quoted(api: Api, secret: str) -> None:
    code, message = api.refusal("POST", "/webhooks", HOOK | {"secret": secret}, status=422)
    assert code == "invalid"
    assert "hunter2" not in message
    assert api("GET", "/webhooks") == []
    assert not (api.home.home.webhooks / "pager").exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "UP", ".hidden", "a" * 65])
def test_a_name_never_becomes_a_path(api: Api, name: str) -> None:
    assert api.refusal("POST", "/webhooks", HOOK | {"name": name}, status=422)[0] == "invalid"
    assert not api.home.home.webhooks.exists() or list(api.home.home.webhooks.iterdir()) == []


def test_a_webhook_is_disabled_enabled_and_removed(api: Api) -> None:
    api("POST", "/webhooks", HOOK | {"product": PRODUCT, "kinds": ["release.*"]}, expect=201)
    off = api("PATCH", "/webhooks/pager", {"enabled": False})
    assert (off["enabled"], off["why_disabled"]) == (False, "disabled by operator")
    assert "disabled by operator" in api.refusal("POST", "/webhooks/pager/test", status=409)[1]
    assert api("PATCH", "/webhooks/pager", {"enabled": True})["why_disabled"] == ""
    tested = api("POST", "/webhooks/pager/test?wait=0.05")  # nobody delivers here
    assert (tested["state"], tested["tries"], tested["event"]["kind"]) == ("pending", 0, "webhook.test")
    text = api.http.get("/metrics").text
    assert 'fleetlift_webhook_deliveries{state="pending",webhook="pager"} 1.0' in text
    assert 'fleetlift_webhook_enabled{webhook="pager"} 1.0' in text
    assert 'fleetlift_rollouts{status="running"} 0.0' in text
    api("DELETE", "/webhooks/pager", expect=204)
    assert not (api.home.home.webhooks / "pager").exists()
    assert "there is no webhook" in api.refusal("GET", "/webhooks/pager", status=404)[1]
    actions = [row["action"] for row in api("GET", "/audit", params={"subject": "webhook/pager"})]
    assert actions == ["webhook.added", "webhook.disabled", "webhook.enabled", "webhook.tested", "webhook.removed"]


def test_a_timeline_goes_on_where_it_was_left(api: Api) -> None:
    body = {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.0.0"}
    release_id = api("POST", "/releases", body, expect=201)["release"]["release_id"]
    path = f"/releases/{release_id}/timeline"
    page = api("GET", path)
    assert [item["kind"] for item in page["moments"]] == ["release.created"]
    assert page["moments"][0]["actor"] == "operator"
    api("PATCH", f"/releases/{release_id}", {"enabled": False})
    later = api("GET", path, params={"after": page["next"], "seen": page["revision"], "wait": 5})
    assert [item["words"] for item in later["moments"]] == ["disabled"]
    assert api("GET", path, params={"after": later["next"]})["moments"] == []
    for cursor in ("x", "1", "1-2-3", "-1-2", "\u0661-\u0661"):
        assert api.refusal("GET", path, params={"after": cursor}, status=422)[0] == "invalid"
    api.refusal("GET", "/releases/rel-0/timeline", status=404)
    api.refusal("GET", "/devices/pi-0/timeline", status=404)
    assert [event["kind"] for event in api("GET", "/events")] == ["release.created", "release.disabled"]
