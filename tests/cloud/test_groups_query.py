"""The language of dynamic groups: what it says of a device, and what it refuses, in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.groups_query import MAX_COMPARISONS, MAX_DEPTH, MAX_QUERY, Candidate, Query
from cloud.store.errors import InvalidError
from protocol.identity import Installed

KIOSK = Candidate(
    device_id="kiosk-1",
    hardware_model="pi4",
    agent_version="0.4.0",
    timezone="Europe/Berlin",
    attributes={"site": "berlin", "floor": "3", "rack.row": "b", "note": "a [x] b"},
    components={"app": Installed(version="1.10.0", build=7), "3d-core": Installed(version="2.0.0-rc.1", build=1)},
)

TRUE = (
    'attributes.site == "berlin" and hardware_model == "pi4" and app >= "1.2.0"',
    "attributes.site == 'berlin'",
    'attributes.site in ("bonn", "berlin")',
    'attributes.site not in ("bonn", "ulm")',
    'attributes.rack.row == "b"',
    "attributes.floor == 3 and attributes.floor < 10",
    'attributes.note like "a [x] *"',
    'device_id like "kiosk-?" and timezone == "Europe/Berlin"',
    'agent_version >= "0.3.9" and agent_version < "1.0.0"',
    'app == "1.10.0" and app > "1.9.0" and app != "1.9.0" and app like "1.*"',
    "app.build >= 7 and component.app.build < 8",
    'component.3d-core < "2.0.0"',
    "has app and has attributes.site and not has os",
    'not os == "1.0.0"',
    'attributes.site == "bonn" or attributes.site == "ulm" or hardware_model == "pi4"',
    'hardware_model == "pi3" and has os or has app',
    'has app or has app and (hardware_model == "pi3")',
    'not (attributes.site == "bonn" or os >= "1.0.0")',
)
FALSE = (
    'attributes.town == "berlin"',
    'attributes.town != "berlin"',
    'attributes.town not in ("berlin")',
    'attributes.site == "Berlin"',
    "attributes.site >= 1",
    "attributes.floor > 3",
    'os != "1.0.0"',
    'app < "1.9.0"',
    'hardware_model == "pi3" and (has os or has app)',
    'not has app or app == "1.0.0"',
    'attributes.note like "a x*"',
)
TOKENS = (
    *("and", "or", "not", "has", "in", "like", "(", ")", ",", "==", "<", "'", "-", "3", "ä", '"1.0.0"', '"x"'),
    *("app", "app.build", "attributes.site", "device_id", "component."),
)


@pytest.mark.parametrize("text", TRUE)
def test_it_is_true_of_the_device(text: str) -> None:
    assert Query.parse(text).matches(KIOSK)
    assert not Query.parse(f"not ({text})").matches(KIOSK)


@pytest.mark.parametrize("text", FALSE)
def test_it_is_not_true_of_the_device(text: str) -> None:
    assert not Query.parse(text).matches(KIOSK)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at the end: a fact is expected"),
        ('hardware_modle == "pi4"', "'hardware_modle' is no fact of a device; there are device_id"),
        ("hardware_model == pi4", "at character 19, 'pi4': a text in quotes is expected"),
        ('app >= "1.2"', "'1.2' is not a semantic version"),
        ("app >= 1", "a text in quotes is expected"),
        ('app.build == "7"', "a whole number is expected"),
        ('attributes.site > "berlin"', "texts have no order"),
        ('hardware_model == "pi4', "expected"),
        ('(app == "1.0.0"', "')' is expected"),
        ('app == "1.0.0" xor has os', "'and' or 'or' is expected"),
        ('app == "1.0.0" and', "a fact is expected"),
        ("attributes.site", "==, !=, <, <=, >, >=, like or in is expected"),
        ('attributes.site not == "x"', "'in' is expected"),
        ("attributes.site in ()", "expected"),
        ('__import__("os").system("true")', "is no fact"),
        ("1; DROP TABLE device", "a fact is expected"),
        ("(" * (MAX_DEPTH + 2), f"more than {MAX_DEPTH} brackets"),
        ("not " * (MAX_DEPTH + 2) + "has app", f"more than {MAX_DEPTH} brackets"),
        (" or ".join(["has app"] * (MAX_COMPARISONS + 1)), f"more than {MAX_COMPARISONS} comparisons"),
        ("has app" + " " * MAX_QUERY, f"at most {MAX_QUERY} characters"),
        ("attributes.floor == " + "9" * 400, "a smaller number"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(InvalidError) as refused:
        Query.parse(text)
    assert says in str(refused.value)
    assert "nothing was changed" in str(refused.value)


@given(
    st.lists(
        st.sampled_from(TOKENS),
        max_size=30,
    ).map(" ".join)
    | st.text(max_size=80)
)
def test_any_text_is_read_or_refused_and_what_is_read_has_an_answer(text: str) -> None:
    try:
        query = Query.parse(text)
    except InvalidError:
        return
    assert query.matches(KIOSK) in (True, False)
    assert len(query.explain(KIOSK)) == len(query.comparisons) > 0


def test_each_comparison_says_what_it_saw() -> None:
    saw = Query.parse('attributes.site == "bonn" and app.build >= 7 or has os').explain(KIOSK)
    assert [(it.comparison, it.saw, it.holds) for it in saw] == [
        ('attributes.site == "bonn"', '"berlin"', False),
        ("app.build >= 7", "7", True),
        ("has os", "nothing", False),
    ]


def test_a_query_knows_whether_an_update_can_change_its_answer() -> None:
    assert Query.parse('has app and attributes.site == "x"').follows_versions
    assert Query.parse('agent_version >= "1.0.0"').follows_versions
    assert not Query.parse('attributes.site == "x" or hardware_model == "pi4"').follows_versions
    assert Query.parse('app >= "1.0.0" or os.build > 3').components == {"app", "os"}
