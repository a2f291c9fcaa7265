"""Images: the same sources give the same bytes, descriptions are strict, what cannot be one is refused."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cloud.images import (
    Description,
    ImageError,
    description_path,
    measure,
    pack,
    read_facts,
    to_description,
    write_description,
)
from protocol.chunks import describe
from protocol.errors import UserError
from protocol.manifest import Requirements


def sources(directory: Path) -> Path:
    (directory / "parts").mkdir(parents=True)
    (directory / "__main__.py").write_text("from parts import name\nprint('runs', name.NAME)\n")
    (directory / "parts" / "__init__.py").write_text("")
    (directory / "parts" / "name.py").write_text("NAME = 'thermostat'\n")
    return directory


def test_a_directory_becomes_an_application_that_runs(tmp_path: Path) -> None:
    pack(sources(tmp_path / "app"), tmp_path / "app.img")
    ran = subprocess.run([sys.executable, tmp_path / "app.img"], capture_output=True, text=True, check=True)
    assert ran.stdout == "runs thermostat\n"


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = sources(tmp_path / "a"), sources(tmp_path / "b")
    for path in second.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (second / "__main__.py").chmod(0o755)
    (second / "__pycache__").mkdir()
    (second / "__pycache__" / "x.pyc").write_bytes(b"left out")
    (second / ".hidden").write_text("left out")
    (second / "firmware.json").write_text("{}")
    pack(first, tmp_path / "a.img")
    pack(second, tmp_path / "b.img")
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
    names = zipfile.ZipFile(tmp_path / "a.img").namelist()
    assert names == sorted(names) == ["__main__.py", "parts/__init__.py", "parts/name.py"]


def test_a_file_is_its_own_image(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.write_bytes(os.urandom(3_000_000))
    pack(source, tmp_path / "out" / "raw.img")
    assert (tmp_path / "out" / "raw.img").read_bytes() == source.read_bytes()
    assert measure(source) == describe([source.read_bytes()])[0]


def test_what_cannot_be_an_image_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    image = tmp_path / "out" / "x.img"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"has no __main__\.py"):
        pack(tmp_path / "empty", image)
    with pytest.raises(ImageError, match="does not exist"):
        pack(tmp_path / "nothing", image)
    linked = sources(tmp_path / "linked")
    (linked / "secrets.py").symlink_to("/etc/passwd")
    with pytest.raises(ImageError, match="symbolic link"):
        pack(linked, image)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "nil").write_bytes(b"")
    with pytest.raises(ImageError, match="cannot be an image"):
        measure(tmp_path / "nil")


def test_a_description_comes_back_as_it_was_written(tmp_path: Path) -> None:
    said = Description(
        product="thermostat",
        component="app",
        version="1.2.0",
        digest="a" * 64,
        size_bytes=5,
        hardware_models=("raspberrypi4",),
        requires=Requirements(agent="0.1.0", components={"os": ">=2.0.0"}),
        notes="quieter",
        data_schema=3,
        reads_schemas=(1, 2),
    )
    image = tmp_path / "x.img"
    assert write_description(image, said) == description_path(image) == tmp_path / "x.img.json"
    assert to_description(read_facts(description_path(image)), "x") == said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"hardware_model": ["a"]}', "'hardware_model' is not known (did you mean 'hardware_models'?)"),
        ('{"x": 1}', "'x' is not known (known: product"),
        ('{"product": ', "not JSON"),
        ('{"product": "a", "product": "b"}', "stands twice"),
        ("[]", "a JSON object is expected"),
    ],
)
def test_a_description_with_a_mistake_names_it(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError) as refused:
        read_facts(tmp_path / "x.json")
    assert says in str(refused.value)
    assert str(tmp_path / "x.json") in str(refused.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": "1.2"}, "not a semantic version"),
        ({"product": "Thermo Stat"}, "is not an id"),
        ({"build": -1}, "build is -1"),
        ({"build": "7"}, "int expected"),
        ({"hardware_models": []}, "hardware_models is empty"),
        ({"requires": {"components": {"os": ">>2"}}}, "is not a comparison"),
        ({"notes": "x" * 3000}, "notes has more than"),
        ({"data_schema": -1}, "0 or more"),
        ({"reads_schemas": [-1]}, "0 or more"),
        ({"reads_schemas": list(range(100))}, "names more than 64"),
        ({"requires": {"components": {f"part-{number}": "1.x" for number in range(17)}}}, "more than 16 components"),
    ],
)
def test_facts_that_are_none_are_refused(change: dict[str, object], says: str) -> None:
    facts = {"product": "p", "component": "app", "version": "1.0.0", "digest": "a" * 64, "size_bytes": 1}
    with pytest.raises(UserError, match="x: ") as refused:
        to_description(facts | change, "x")
    assert says in str(refused.value)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "__main__.py").touch()
    Path(os.fsdecode(os.fsencode(source) + b"/\xff.py")).touch()
    with pytest.raises(ImageError, match="not UTF-8"):
        pack(source, tmp_path / "image")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
