"""One office a module: its tests use groups and versions of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.cli.offices import Office, make_office
from tests.support.processes import Processes


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    children = Processes(tmp_path_factory.mktemp("logs"))
    yield children
    children.close()


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, module_processes: Processes) -> Office:
    """An office whose server runs."""
    opened = make_office(tmp_path_factory.mktemp("office"), module_processes)
    opened.serve()
    return opened


@pytest.fixture
def closed(tmp_path: Path, processes: Processes) -> Office:
    """An office whose server does not run."""
    directory = tmp_path / "office"
    directory.mkdir()
    return make_office(directory, processes)
