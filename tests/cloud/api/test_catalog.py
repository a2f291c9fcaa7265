"""Products, firmware, blobs and groups over the API: what is published, what is refused, what is left unchanged."""

import hashlib

import pytest

from cloud.keyring import Keyring
from protocol.chunks import describe
from tests.cloud.homes import MODEL, PRODUCT, Api


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(api: Api, content: bytes, digest: str | None = None, *, expect: int = 200) -> dict[str, object]:
    said: dict[str, object] = api("PUT", f"/blobs/{digest or digest_of(content)}", content=content, expect=expect)
    return said


def test_a_firmware_is_published_by_its_blob_and_its_signed_role(api: Api) -> None:
    content = b"an image" * 20_000
    role = api.home.sign("1.0.0", content, notes="first")
    ref = describe([content])[0]
    assert put(api, content) == {"digest": ref.digest, "size_bytes": len(content), "lists": list(ref.lists)}
    new = api("POST", f"/products/{PRODUCT}/role", content=role, expect=201)
    assert [(item["version"], item["published"], item["notes"]) for item in new] == [("1.0.0", True, "first")]
    assert new[0]["link"] == f"http://api.test/firmware/{PRODUCT}/app/1.0.0"
    assert api("GET", f"/firmware/{PRODUCT}/app/1.0.0")["digest"] == ref.digest
    assert api.http.get(f"/metadata/{PRODUCT}.json").content == role


def test_a_role_before_its_blob_is_published_when_the_blob_arrives(api: Api) -> None:
    content = b"late"
    api("POST", f"/products/{PRODUCT}/role", content=api.home.sign("1.0.0", content), expect=201)
    assert api("GET", f"/firmware/{PRODUCT}/app/1.0.0")["published"] is False
    body = {"product": PRODUCT, "group": "everyone", "component": "app", "version": "1.0.0"}
    assert api.refusal("POST", "/releases", body, status=409)[0] == "conflict"
    put(api, content)
    assert api("GET", f"/firmware/{PRODUCT}/app/1.0.0")["published"] is True
    api("POST", "/releases", body, expect=201)


def test_the_same_again_changes_nothing(api: Api) -> None:
    content = b"twice"
    role = api.home.sign("1.0.0", content)
    for _ in range(2):
        put(api, content)
        new = api("POST", f"/products/{PRODUCT}/role", content=role, expect=201)
        assert [item["version"] for item in new] == ["1.0.0"]
    assert len(api("GET", "/firmware", params={"product": PRODUCT})) == 1


def test_a_role_that_another_operator_overtook_is_a_conflict(api: Api) -> None:
    mine, theirs = api.home.sign("1.0.0", b"mine"), api.home.sign("1.0.1", b"theirs")
    api("POST", f"/products/{PRODUCT}/role", content=theirs, expect=201)
    code, message = api.refusal("POST", f"/products/{PRODUCT}/role", status=409, content=mine)
    assert code == "conflict"
    assert "sign on top of it" in message
    assert [item["version"] for item in api("GET", "/firmware")] == ["1.0.1"]


@pytest.mark.parametrize("forged", [b"{}", b"not json", b'{"signed": {"_type": "targets"}, "signatures": []}'])
def test_what_is_not_signed_metadata_is_refused(api: Api, forged: bytes) -> None:
    assert api.refusal("POST", f"/products/{PRODUCT}/role", status=422, content=forged)[0] == "untrusted"


def test_a_role_signed_by_another_key_is_refused(api: Api) -> None:
    role = api.home.sign("1.0.0", b"image").replace(b'"sig":"', b'"sig":"00')
    assert api.refusal("POST", f"/products/{PRODUCT}/role", status=422, content=role)[0] == "untrusted"
    assert api("GET", "/firmware") == []


def test_bytes_of_another_digest_are_not_stored(api: Api) -> None:
    said = put(api, b"other bytes", digest_of(b"announced"), expect=422)
    assert said["error"] == "digest_mismatch"
    api.refusal("GET", f"/blobs/{digest_of(b'announced')}", status=404)
    api.refusal("GET", f"/blobs/{digest_of(b'other bytes')}", status=404)


@pytest.mark.parametrize("digest", ["short", "A" * 64, "..", "%2e%2e%2ffleetlift.db"])
def test_what_is_no_digest_is_never_a_path(api: Api, digest: str) -> None:
    answer = api.http.put(f"/blobs/{digest}", content=b"x")
    assert answer.status_code in (404, 405, 422)
    assert set(answer.json()) == {"error", "message", "help"}


@pytest.mark.parametrize("name", ["../fleetlift.db", "online.pem", "timestamp", "x/y.json", "9.root.json"])
def test_metadata_is_only_metadata(api: Api, name: str) -> None:
    assert api.http.get(f"/metadata/{name}").status_code == 404


def test_a_product_is_made_with_what_the_operator_signed(api: Api) -> None:
    delegation = Keyring(api.home.home.keys).delegate("camera", api.http.get("/metadata/targets.json").content)
    body = {
        "product": "camera",
        "hardware_models": ["cm4", "cm5"],
        "targets": delegation.targets.decode(),
        "role": delegation.role.decode(),
    }
    assert api("POST", "/products", body, expect=201)["hardware_models"] == ["cm4", "cm5"]
    assert [item["product"] for item in api("GET", "/products")] == ["camera", PRODUCT]
    assert api.refusal("POST", "/products", body, status=409)[0] == "conflict"
    assert api.home.repository.products() == (PRODUCT, "camera") or set(api.home.repository.products()) == {
        PRODUCT,
        "camera",
    }


def test_a_product_without_a_delegation_is_refused(api: Api) -> None:
    targets, role = api.http.get("/metadata/targets.json").text, api.http.get(f"/metadata/{PRODUCT}.json").text
    body = {"product": "camera", "hardware_models": ["cm4"], "targets": targets, "role": role}
    assert api.refusal("POST", "/products", body, status=422)[0] == "untrusted"
    assert [item["product"] for item in api("GET", "/products")] == [PRODUCT]


def test_updates_of_a_product_are_switched(api: Api) -> None:
    assert api("PATCH", f"/products/{PRODUCT}", {"ota_enabled": False})["ota_enabled"] is False
    assert api("GET", f"/products/{PRODUCT}")["ota_enabled"] is False
    assert api.refusal("PATCH", f"/products/{PRODUCT}", {"ota_enabled": "no"}, status=422)[0] == "invalid"


def test_groups_are_ranked_and_everyone_is_last(api: Api) -> None:
    for name, rank in (("field", None), ("lab", 1), ("pilot", 2)):
        api("POST", "/groups", {"product": PRODUCT, "group": name, "rank": rank}, expect=201)
    assert [group["group"] for group in api("GET", "/groups")] == ["lab", "pilot", "field", "everyone"]
    assert api.refusal("POST", "/groups", {"product": PRODUCT, "group": "lab"}, status=409)[0] == "conflict"
    api("PATCH", f"/groups/{PRODUCT}/field", {"rank": 1})
    assert [group["group"] for group in api("GET", "/groups")] == ["field", "lab", "pilot", "everyone"]
    api("DELETE", f"/groups/{PRODUCT}/lab", expect=204)
    assert api.refusal("DELETE", f"/groups/{PRODUCT}/everyone", status=409)[0] == "conflict"


def test_members_come_and_go_all_or_none(api: Api) -> None:
    for device in ("pi-1", "pi-2"):
        api.home.join(device)
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    members = f"/groups/{PRODUCT}/pilot/members"
    assert api("POST", members, {"add": ["pi-1", "pi-2"]}) == {"added": 2, "removed": 0}
    assert api("POST", members, {"add": ["pi-1"], "remove": ["pi-2"]}) == {"added": 0, "removed": 1}
    api.refusal("POST", members, {"add": ["pi-2", "pi-9"]}, status=404)
    assert api("GET", f"/groups/{PRODUCT}/pilot")["members"] == ["pi-1"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/products/thermostta", "Did you mean 'thermostat'?"),
        ("/groups/thermostat/pilto", "Did you mean 'pilot'?"),
        ("/groups/thermstat/pilot", "Did you mean 'thermostat'?"),
        ("/firmware/thermostat/app/1.0.1", "Did you mean '1.0.0'?"),
        ("/devices/pi-11", "Did you mean 'pi-1'?"),
        ("/devices/pi-11/history", "Did you mean 'pi-1'?"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_the_one_meant(api: Api, path: str, says: str) -> None:
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    api.home.publish("1.0.0")
    api.home.join("pi-1")
    code, message = api.refusal("GET", path, status=404)
    assert code == "not_found"
    assert says in message


@pytest.mark.parametrize(
    "path",
    [
        "/devices?group=pilott",
        f"/devices?product={PRODUCT}&group=pilott",
        f"/devices?product={PRODUCT}x",
        "/releases?group=pilott",
        f"/releases?product={PRODUCT}x&group=pilot",
        f"/groups?product={PRODUCT}x",
        f"/firmware?product={PRODUCT}x",
        f"/attempts?product={PRODUCT}x",
    ],
)
def test_a_filter_that_names_what_does_not_exist_is_refused(api: Api, path: str) -> None:
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    code, message = api.refusal("GET", path, status=404)
    assert code == "not_found"
    assert "Did you mean" in message
    assert api("GET", f"/devices?product={PRODUCT}&group=pilot&online=true")["devices"] == []


def test_a_device_is_enrolled_into_groups(api: Api) -> None:
    api("POST", "/groups", {"product": PRODUCT, "group": "pilot"}, expect=201)
    body = {"device_id": "pi-7", "product": PRODUCT, "hardware_model": MODEL, "groups": ["pilot"]}
    assert api("POST", "/devices", body, expect=201)["groups"] == ["pilot", "everyone"]
    assert api.refusal("POST", "/devices", body, status=409)[0] == "conflict"
    body |= {"device_id": "pi-8", "groups": ["pilto"]}
    assert "Did you mean 'pilot'?" in api.refusal("POST", "/devices", body, status=404)[1]
    assert [device["device_id"] for device in api("GET", "/devices")["devices"]] == ["pi-7"]


def test_devices_come_in_pages_and_by_what_they_are(api: Api) -> None:
    for number in range(5):
        api.home.join(f"pi-{number}", version="1.0.0" if number % 2 else "1.1.0")
    first = api("GET", "/devices", params={"limit": 2})
    assert (first["total"], first["next"]) == (5, "pi-1")
    second = api("GET", "/devices", params={"limit": 2, "after": first["next"]})
    assert [device["device_id"] for device in second["devices"]] == ["pi-2", "pi-3"]
    found = api("GET", "/devices", params={"version": "1.1.0"})["devices"]
    assert [device["device_id"] for device in found] == ["pi-0", "pi-2", "pi-4"]
