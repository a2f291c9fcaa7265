"""JSON that the database puts together: what a row says, and what belongs to it, as one text in one pass.

The functions are each database's own. Texts of one database are equal where what they say is; those of two are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import ColumnElement, Function, func
from sqlmodel import Session


@dataclass(frozen=True, slots=True)
class JsonTexts:
    """The JSON functions of a database."""

    is_sqlite: bool

    @classmethod
    def of(cls, session: Session) -> Self:
        """Return those of a session's database."""
        return cls(session.connection().dialect.name == "sqlite")

    def array(self, *values: ColumnElement[Any]) -> Function[Any]:
        """Return an array of values."""
        return func.json_array(*values) if self.is_sqlite else func.json_build_array(*values)

    def gathered(self, value: ColumnElement[Any]) -> Function[Any]:
        """Return an array of a value of all rows; without rows an empty one, or null."""
        return func.json_group_array(value) if self.is_sqlite else func.json_agg(value)

    def picked(self, column: ColumnElement[Any], *names: str) -> Function[Any]:
        """Return an array of what a JSON column has under these names, null for what it has not; or null.

        SQLite reads the column once for all of them.
        """
        if self.is_sqlite:
            return func.json_extract(column, *(f"$.{name}" for name in names))
        return func.json_build_array(*(column[name] for name in names))
