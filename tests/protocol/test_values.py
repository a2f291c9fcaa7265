"""Names of metadata files: what passes can be a file's name, and nothing else does."""

import pytest

from protocol.errors import MessageError
from protocol.values import check_metadata_name


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json", "9999999999.a-b.json", "thermostat.json"])
def test_what_is_the_name_of_a_metadata_file(name: str) -> None:
    assert check_metadata_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "root", "0.root.json", "../root.json", "1/root.json", "1.root.json\n", "Root.json", "1\u0663.root.json"),
        *("12345678901.root.json", "a" * 65 + ".json", "1.2.root.json"),
    ],
)
def test_what_is_none(name: str) -> None:
    with pytest.raises(MessageError):
        check_metadata_name(name)
