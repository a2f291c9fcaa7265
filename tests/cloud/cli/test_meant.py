"""Did you mean: a mistyped name is answered with the one that was meant, of those that one may see."""

import pytest

from tests.cloud.cli.deeds import push, refusal
from tests.cloud.cli.offices import Office


@pytest.fixture(scope="module")
def named(office: Office) -> Office:
    """An office with one of everything that has a name."""
    office.call("person", "add", "alice")
    office.call("api-token", "create", "nightly", "--token-to", office.directory / "nightly")
    office.call("webhook", "add", "pager", "https://pager.example/", "--kind", "release.*")
    office.call("set", "create", "left-and-right")
    office.call("group", "create", "pilots")
    push(office, "61.0.0")
    return office


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("person", "show", "alcie"), "alice"),
        (("person", "disable", "alic", "--yes"), "alice"),
        (("person", "grant", "alise", "viewer", "--everywhere"), "alice"),
        (("api-token", "revoke", "nightyl", "--yes"), "nightly"),
        (("webhook", "show", "pagre"), "pager"),
        (("webhook", "test", "pgaer"), "pager"),
        (("set", "show", "left-and-rigth"), "left-and-right"),
        (("group", "show", "pilot"), "pilots"),
        (("group", "add", "pilto", "nobody"), "pilots"),
        (("product", "show", "thermostta"), "thermostat"),
        (("firmware", "show", "61.0.1"), "61.0.0"),
        (("release", "push", "61.0.0", "--group", "pilosts", "--yes"), "pilots"),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, tuple) else it,
)
def test_a_name_is_meant(words: tuple[str, ...], meant: str, named: Office) -> None:
    assert f"Did you mean {meant!r}?" in refusal(named, *words, code=1)


def test_nothing_is_guessed_of_what_is_far_off(named: Office) -> None:
    assert "Did you mean" not in refusal(named, "person", "show", "zzzzzz", code=1)


@pytest.mark.parametrize(
    ("words", "meant"),
    [(("relese", "list"), "release"), (("release", "lsit"), "list"), (("device", "list", "--onlin"), "--online")],
)
def test_a_command_or_an_option_is_meant(words: tuple[str, ...], meant: str, named: Office) -> None:
    assert meant in refusal(named, *words, code=2).split("Did you mean")[1]
