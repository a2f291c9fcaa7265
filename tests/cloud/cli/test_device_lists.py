"""Lists of devices: what is taken, and that a wrong one is refused by its line."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.cli.device_lists import ListedDevice, read_devices
from protocol.errors import UserError


def read(tmp_path: Path, content: str | bytes) -> tuple[ListedDevice, ...]:
    path = tmp_path / "devices"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_devices(path)


PUMPS = (
    ListedDevice(2, "pump-1", "pi4", ("hall", "east")),
    ListedDevice(3, "pump-2", None, ()),
)


@pytest.mark.parametrize(
    "content",
    [
        "device_id,hardware_model,groups\npump-1,pi4,hall east\npump-2,,\n",
        "\ufeffdevice_id, groups , hardware_model\r\npump-1,hall;east,pi4\r\npump-2\r\n",
        'groups,device_id,hardware_model\n"hall|east","pump-1",pi4\n,pump-2,',
    ],
)
def test_csv(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == PUMPS


def test_json_lines(tmp_path: Path) -> None:
    content = (
        '{"device_id": "pump-1", "hardware_model": "pi4", "groups": ["hall", "east"]}\n\n{"device_id": "pump-2"}\n'
    )
    assert read(tmp_path, content) == (PUMPS[0].__class__(1, "pump-1", "pi4", ("hall", "east")), PUMPS[1])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "names no device"),
        ("device_id\n", "names no device"),
        ("name\npump-1\n", "line 1: the head line names columns"),
        ("device_id,colour\npump-1,red\n", "line 1: the head line"),
        ("device_id,device_id\na,b\n", "line 1: the head line"),
        ("device_id\npump-1\npump-2,pi4\n", "line 3: there are 2 columns"),
        ("device_id\npump-1\nPump\n", "line 3: device 'Pump' is not an id"),
        ("device_id\npump-1\n../x\n", "line 3: device '../x' is not an id"),
        ("device_id,hardware_model\npump-1,\npump-2,+\n", "line 3: hardware model '+'"),
        ("device_id,groups\npump-1,ok Not\n", "line 2: group 'Not'"),
        ("device_id\npump-1\n\npump-1\n", "line 4: pump-1 stands in line 2 already"),
        ('device_id\npump-1\n"pump\n', "line 3: not CSV"),
        ('device_id\n"a" b\n', "line 2: not CSV"),
        ('{"device_id": "pump-1"}\n{"device_id": 7}', "line 2: device 7 is not an id"),
        ('{"device_id": "pump-1"}\n[]', "line 2: a JSON object is expected"),
        ('{"device_id": "pump-1"}\n{"device', "line 2: not JSON"),
        ('{"device_id": "pump-1", "groups": "hall"}', "line 1: groups are a list"),
        ('{"device_id": "pump-1", "owner": "x"}', "line 1: 'owner' is not known here"),
        ("{" + "[" * 100_000, "line 1: not JSON"),
        (b"device_id\npump-1\n\xff\n", "line 3: the text is not UTF-8"),
        ("device_id\n" + "".join(f"pump-{number}\n" for number in range(2001)), "line 2002: a list has 2000"),
        (b"device_id\n" + b"#" * 4_200_000, "has more than 4194304 bytes"),
    ],
)
def test_what_is_wrong_is_said_by_its_line(tmp_path: Path, content: str | bytes, why: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert why in str(caught.value)
    assert "Nothing was changed" in str(caught.value)


@given(st.binary(max_size=300) | st.text(alphabet='{}[]",:\n\r;| device_idgroups\x00', max_size=300).map(str.encode))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_a_list_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    with contextlib.suppress(UserError):
        read(tmp_path, content)
