"""The door of the `fleetlift` command: a missing library is a sentence, a mistake of ours is not hidden."""

import importlib
import sys
import types

import pytest

from cloud import entry


def stand_in(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def import_module(name: str) -> types.ModuleType:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in(monkeypatch, "sqlmodel.ext")
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "sqlmodel.ext is not installed" in said.err
    assert "pip install 'fleetlift[cloud]'" in said.err


@pytest.mark.parametrize("missing", ["cloud.stroe", "protocol.tpoics"])
def test_a_missing_module_of_ours_is_a_bug_and_stays_a_traceback(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    stand_in(monkeypatch, missing)
    with pytest.raises(ModuleNotFoundError, match=missing):
        entry.main()


def test_the_exit_code_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = types.ModuleType("cloud.cli")
    cli.__dict__["main"] = lambda: 5
    monkeypatch.setitem(sys.modules, "cloud.cli", cli)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 5
