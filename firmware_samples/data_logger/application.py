"""A logger whose data has a schema: what it notes must survive every update, and every update that fails.

The rules that it follows, and that an application of this kind should:
1. When an update is to change the schema, bring everything to the disk, write no more, and say `data_synced`.
2. Whoever has to write on says so first (`data_synced(False)`), and is asked again.
3. At the start, look at the schema of what is there: take it over if that is known, and end if it is not. Never guess.
4. Take it over so that a cut at any moment leaves the old or the new, whole: beside it first, then a rename.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from device_agent.sdk import Event, Updates, UpdatesError
from firmware_samples import appliance
from firmware_samples.appliance import Command, Surroundings

LOG: Final = "log"
FIRST_SCHEMA: Final = 1


class Log:
    """What was noted, in `directory`: in schema 1 a text of lines, since then a JSON object that names its schema."""

    def __init__(self, directory: Path, schema: int, reads: tuple[int, ...]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._path = directory / f"{LOG}.{'txt' if schema == FIRST_SCHEMA else 'json'}"
        self._schema = schema
        found, self.entries = self._read()
        if found not in (None, schema, *reads):
            raise ValueError(f"the log is of schema {found}, and this version reads {sorted({schema, *reads})}")
        if found not in (None, schema):
            self.write()
            (directory / f"{LOG}.txt").unlink()

    def note(self, text: str) -> None:
        """Note a line, durably."""
        self.entries.append(text)
        self.write()

    def write(self) -> None:
        """Write all of it, old or new and nothing between."""
        beside = self._path.with_name(f".{self._path.name}")
        with beside.open("w", encoding="utf-8") as file:
            if self._schema == FIRST_SCHEMA:
                file.writelines(f"{entry}\n" for entry in self.entries)
            else:
                json.dump({"schema": self._schema, "entries": self.entries}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)

    def _read(self) -> tuple[int | None, list[str]]:
        """Return the schema of what is there, None if nothing is, and its entries."""
        old, new = self._directory / f"{LOG}.txt", self._directory / f"{LOG}.json"
        if new.exists():
            found = json.loads(new.read_text(encoding="utf-8"))
            return int(found["schema"]), list(found["entries"])
        if old.exists():
            return FIRST_SCHEMA, old.read_text(encoding="utf-8").splitlines()
        return None, []


class DataLogger:
    """Notes the hour every `FLEETLIFT_LOGGER_EVERY_S` seconds (10; 0: never), and what it is told to note."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._updates: Updates = surroundings.updates
        self._parameters = surroundings.version["parameters"]
        directory = Path(surroundings.environ.get("FLEETLIFT_DATA_DIR", ".")) / LOG
        schema = int(surroundings.version["data_schema"])
        self._log = Log(directory, schema, tuple(surroundings.version["reads_schemas"]))
        self._every_s = float(surroundings.environ.get("FLEETLIFT_LOGGER_EVERY_S", "10"))
        self._resting = False
        self._noted = 0
        self._reported = -1
        self._updates.on("data_sync_wanted", self._rest)
        if self._parameters.get("notes_at_start"):
            self._log.note(self._parameters["notes_at_start"])

    def step(self, elapsed_s: float) -> Mapping[str, Any]:
        """Note the hour if it is time, and say how long the log is."""
        if (limit_s := self._parameters.get("crashes_after_s")) is not None and elapsed_s > limit_s:
            os.abort()
        due = int(elapsed_s / self._every_s) if self._every_s else 0
        if due > self._noted and not self._resting:
            self._noted = due
            self._log.note(f"{elapsed_s:.0f} s")
        if self._reported != len(self._log.entries):
            self._report()
        return {"entries": len(self._log.entries), "resting": self._resting}

    def _report(self) -> None:
        try:
            self._updates.report_gauge("log-entries", len(self._log.entries))
            self._reported = len(self._log.entries)
        except UpdatesError as error:  # asked again at the next step
            appliance.say(f"the agent does not take the gauge: {error}")

    def healthy(self, elapsed_s: float) -> bool:
        """Tell whether it does its work."""
        limit_s = self._parameters.get("fails_after_s")
        return limit_s is None or elapsed_s < float(limit_s)

    def commands(self) -> Mapping[str, Command]:
        """Take lines to note."""
        return {"/note": lambda body: self._note(str(body.get("text", "")))}

    def _note(self, text: str) -> None:
        if self._resting:
            self._updates.data_synced(False)  # rule 2
            self._resting = False
        self._log.note(text)

    def _rest(self, _event: Event) -> None:
        self._resting = True  # rule 1; `note` is durable when it returns
        self._updates.data_synced()


def main() -> None:
    """Run it until SIGTERM."""
    appliance.run(DataLogger)
