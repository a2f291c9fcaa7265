"""Versions that keep a book: one of schema 1, and one of schema 2 that takes it over, and changes all of it."""

from dataclasses import dataclass, field
from pathlib import Path

from protocol.values import FirmwareRef
from tests.support.simulated_world import World


@dataclass
class Book:
    """The book of a simulated device, and who wrote what in it; `wrongs` are what no version should ever find."""

    world: World
    old: FirmwareRef = field(init=False)
    new: FirmwareRef = field(init=False)
    left: str = ""
    """What the old version left in the book, as it knows itself."""
    wrongs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.old = self.world.image("1.0.0", data_schema=1)
        self.new = self.world.image("2.0.0", data_schema=2, reads_schemas=(1,))
        self.world.works[self.old.digest] = self.write_on
        self.world.works[self.new.digest] = self.migrate

    @property
    def path(self) -> Path:
        return self.directory / "book"

    @property
    def directory(self) -> Path:
        return self.world.directory / "book-data"

    def read(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    def write_on(self) -> None:
        """Start the old version, which finds what it left, and writes another page."""
        if self.read() != self.left:
            self.wrongs.append(f"the old version finds {self.read()!r}, and left {self.left!r}")
        self.left = (self.left or "schema 1:") + " page"
        self._write(self.left)

    def migrate(self) -> None:
        """Start the new version, which finds what the old one left, or its own."""
        found = self.read()
        if found != self.left and not found.startswith("schema 2"):
            self.wrongs.append(f"the new version finds {found!r}")
        self._write(f"schema 2: {found}")

    def _write(self, text: str) -> None:
        self.directory.mkdir(exist_ok=True)
        self.path.write_text(text)
