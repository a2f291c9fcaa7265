"""Files of fleets: what they may look like, and every wrong line named."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.cli.fleet_files import MAX_SHOWN, Wrong, read_fleet, refusal
from protocol.errors import UserError

DIGEST = "ab" * 32
CSV = f"""device,product,hardware_model,groups,attributes,attributes.room,installed
kiosk-1,kiosk,pi4,berlin;test,site=berlin;floor=3,second floor,app=1.4.0;os=2.0.0#17@{DIGEST}

kiosk-2,,,,,,
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_is_read_with_lists_and_columns_of_attributes(tmp_path: Path) -> None:
    fleet = read_fleet(written(tmp_path, CSV), "lamp")
    assert fleet.wrong == ()
    assert fleet.devices == (
        {
            "line": 2,
            "device_id": "kiosk-1",
            "product": "kiosk",
            "hardware_model": "pi4",
            "groups": ["berlin", "test"],
            "attributes": {"site": "berlin", "floor": "3", "room": "second floor"},
            "installed": {"app": {"version": "1.4.0"}, "os": {"version": "2.0.0", "build": 17, "digest": DIGEST}},
        },
        {"line": 4, "device_id": "kiosk-2", "product": "lamp", "groups": [], "attributes": {}, "installed": {}},
    )


def test_json_lines_say_the_same(tmp_path: Path) -> None:
    line = (
        '{"device_id": "kiosk-1", "product": "kiosk", "groups": ["a"], "attributes": {"site": "x y"}, '
        f'"installed": {{"app": "1.4.0", "os": {{"version": "2.0.0", "digest": "{DIGEST}"}}}}}}'
    )
    fleet = read_fleet(written(tmp_path, f'{line}\n\n{{"device": "kiosk-2", "hardware_model": null}}\n'), "lamp")
    assert fleet.wrong == ()
    assert fleet.devices[0]["installed"] == {
        "app": {"version": "1.4.0"},
        "os": {"version": "2.0.0", "digest": DIGEST},
    }
    assert fleet.devices[1] == {"line": 3, "device_id": "kiosk-2", "product": "lamp", "groups": []}


def test_every_wrong_line_is_named_with_its_reason(tmp_path: Path) -> None:
    text = """device_id,product,groups,attributes,installed
good-1,p,a,,app=1.0.0
Bad Name,p,,,
dev-3,p,Bad!,,
dev-4,p,,site,
dev-5,p,,,app=1
dev-6,p,,,app=1.0.0@short
good-1,p,,,
dev-8,p,,,,,
dev-9,,,,
"""
    fleet = read_fleet(written(tmp_path, text), None)
    assert [it["device_id"] for it in fleet.devices] == ["good-1"]
    assert [(it.line, it.why.split(":")[0][:40]) for it in fleet.wrong] == [
        (3, "device_id 'Bad Name' is not an id"),
        (4, "group 'Bad!' is not an id"),
        (5, "attributes"),
        (6, "the version of app '1' is not a semantic"),
        (7, "the digest of app 'short' is not a SHA-2"),
        (8, "good-1 stands in line 2 already"),
        (9, "there are 7 columns, and the head line h"),
        (10, "no product"),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON object is expected"),
        ('{"device_id": "a", "colour": "red"}', "'colour' is not known here"),
        ('{"device_id": 5}', "is not an id"),
        ('{"device_id": "a", "groups": "x"}', "groups is a list"),
        ('{"device_id": "a", "groups": [["x"]]}', "is not an id"),
        ('{"device_id": "a", "attributes": ["x"]}', "attributes is an object"),
        ('{"device_id": "a", "attributes": {"x": 1}}', "a text is expected"),
        ('{"device_id": "a", "attributes": {"x": "\\ud800"}}', "half a character"),
        ('{"device_id": "a", "installed": {"app": 1}}', "a version is expected"),
        ('{"device_id": "a", "installed": {"app": {"version": "1.0.0", "build": true}}}', "is a whole number"),
        ('{"device_id": "a", "installed": {"A p": "1.0.0"}}', "is not an id"),
    ],
)
def test_a_line_of_json_that_cannot_be_meant_is_wrong(tmp_path: Path, line: str, why: str) -> None:
    fleet = read_fleet(written(tmp_path, f'{{"device_id": "good"}}\n{line}\n'), "p")
    assert [it.line for it in fleet.wrong] == [2]
    assert why in fleet.wrong[0].why
    assert len(fleet.devices) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no device"),
        ("device_id\n", "names no device"),
        ("name,product\nx,y\n", "'name' is none"),
        ("product\nx\n", "device_id is not there"),
        ("device,device_id\nx,y\n", "one is there twice"),
        ('device_id\n"open\n', "not CSV"),
    ],
)
def test_a_file_that_is_none_is_refused_whole(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        read_fleet(written(tmp_path, text), "p")


def test_no_more_wrong_lines_are_shown_than_are_good_to_read() -> None:
    said = str(refusal(Path("fleet.csv"), [Wrong(number, "odd") for number in range(30, 0, -1)]))
    assert said.startswith("fleet.csv: 30 lines are wrong, and nothing was changed.")
    assert "line 1: odd" in said
    assert f"line {MAX_SHOWN}: odd" in said
    assert f"line {MAX_SHOWN + 1}:" not in said
    assert said.endswith("and 10 more")


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(max_size=60)
    | st.text(max_size=60).map(lambda tail: "device_id,groups,attributes,installed\n" + tail)
    | st.text(max_size=60).map(lambda tail: '{"device_id": ' + tail)
)
def test_any_file_is_read_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "fleet"
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        fleet = read_fleet(path, "p")
    except UserError as error:
        assert "Nothing was changed" in str(error)  # noqa: PT017 - most texts are refused, some are not
    else:
        assert all(device["device_id"] and device["product"] for device in fleet.devices)
