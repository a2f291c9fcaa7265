"""A push that is repeated: the same content makes one label, other content another, and a stopped one none."""

import pytest

from tests.cloud.cli.deeds import push, refusal
from tests.cloud.cli.offices import Office


def labels(office: Office, group: str) -> list[int]:
    return [page["release"]["label"] for page in office.json("release", "list", "--group", group)]


@pytest.fixture
def group(office: Office, request: pytest.FixtureRequest) -> str:
    name = str(request.node.name).replace("_", "-")[:40]
    office.call("group", "create", name)
    return name


def test_the_same_again_makes_no_label_and_says_which_there_is(office: Office, group: str) -> None:
    first = push(office, "21.0.0", "--group", group, "-o", "json").json
    again = push(office, "21.0.0", "--group", group)
    assert f"thermostat/{group}/app v1 says exactly this already" in again.out
    document = push(office, "21.0.0", "--group", group, "--description", "another run", "-o", "json").json
    assert (first["new"], document["new"]) == (True, False)
    assert document["release"]["release_id"] == first["release"]["release_id"]
    office.call("release", "push", "21.0.0", "--group", group, "--yes")  # by its version
    assert labels(office, group) == [1]


@pytest.mark.parametrize(
    "other",
    [
        ("--percentage", 50),
        ("--mandatory",),
        ("--immediate",),
        ("--range", "<21.0.0"),
        ("--phase", "50%:1h"),
        ("--again",),
    ],
    ids=lambda other: other[0],
)
def test_another_decision_is_another_label(office: Office, other: tuple[object, ...]) -> None:
    name = f"other{str(other[0]).removeprefix('-')}"
    office.call("group", "create", name)
    push(office, "21.1.0", "--group", name)
    assert push(office, "21.1.0", "--group", name, *other, "-o", "json").json["new"] is True
    assert labels(office, name) == [2, 1]


def test_a_plan_that_is_the_same_is_released_once_and_another_anew(office: Office, group: str) -> None:
    plan = ("--phase", "5%:1h", "--ramp", "4h:1h", "--gate", "failures:2%/20%", "--deadline", "2030-01-31T02:00Z")
    push(office, "21.2.0", "--group", group, *plan)
    assert push(office, "21.2.0", "--group", group, *plan, "-o", "json").json["new"] is False
    office.call("release", "pause", "v1", "--group", group)
    assert push(office, "21.2.0", "--group", group, *plan, "-o", "json").json["new"] is False
    assert push(office, "21.2.0", "--group", group, *plan, "--hold-back", "5%", "-o", "json").json["new"] is True
    assert labels(office, group) == [2, 1]


def test_what_an_operator_changed_since_is_not_undone_by_a_pipeline(office: Office, group: str) -> None:
    push(office, "21.3.0", "--group", group, "--percentage", 10)
    office.call("release", "patch", "v1", "--group", group, "--percentage", 60)
    page = push(office, "21.3.0", "--group", group, "--percentage", 10, "-o", "json").json
    assert (page["new"], page["release"]["percentage"]) == (False, 60)


def test_a_release_that_was_stopped_is_not_made_again_unasked(office: Office, group: str) -> None:
    push(office, "21.4.0", "--group", group)
    push(office, "21.4.1", "--group", group)
    office.call("release", "disable", "v2", "--group", group)
    said = push(office, "21.4.1", "--group", group, expect=5).err
    assert "v2 says exactly this, and was disabled" in said
    assert "fleetlift release enable v2" in said
    assert push(office, "21.4.0", "--group", group, "-o", "json").json["new"] is False, "v1 is Live again"
    assert labels(office, group) == [2, 1]
    push(office, "21.4.1", "--group", group, "--again")
    assert labels(office, group) == [3, 2, 1]


def test_going_back_to_an_older_image_is_a_decision_and_makes_a_label(office: Office, group: str) -> None:
    push(office, "21.5.0", "--group", group)
    push(office, "21.5.1", "--group", group)
    assert push(office, "21.5.0", "--group", group, "-o", "json").json["new"] is True
    assert labels(office, group) == [3, 2, 1]


def test_the_same_version_with_other_bytes_is_refused_with_what_to_do(office: Office, group: str) -> None:
    push(office, "21.6.0", "--group", group)
    other = office.application("print('other')\n", name="other")
    said = refusal(office, "release", "push", other, "--version", "21.6.0", "--group", group, "--yes", code=5)
    assert "exists already, with another image" in said
    assert "Give this image a new version" in said
    assert labels(office, group) == [1]
