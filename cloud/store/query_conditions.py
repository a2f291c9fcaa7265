"""A group's query as a condition of the database: it finds the same devices, without reading all of them.

A fleet has many devices and few values of a fact. So the database is asked which values there are, each comparison is
made here, by `cloud.groups_query`, and the database is asked again who has those of which it is true.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, false, func, not_, or_
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from cloud.device_models import DeviceAttributeRow
from cloud.groups_query import ATTRIBUTES, BUILD, COMPONENT, VERSION, Candidate, Combination, Comparison, Expression
from cloud.models import ComponentRow, DeviceRow
from protocol.identity import Installed

MAX_VALUES: Final = 2000
"""Of one fact, as many as are compared here."""
DEVICE_ID: Final = "device_id"


def condition(session: Session, product: str, expression: Expression) -> ColumnElement[bool] | None:
    """Return what is true of the product's devices of which the query is true; None: there are too many values."""
    if isinstance(expression, Comparison):
        return _compared(session, product, expression)
    parts = [condition(session, product, part) for part in expression.parts]
    known = [part for part in parts if part is not None]
    return _combined(expression, known) if len(known) == len(parts) else None


def _combined(expression: Combination, parts: list[ColumnElement[bool]]) -> ColumnElement[bool]:
    if expression.word == "not":
        return not_(parts[0])
    return and_(*parts) if expression.word == "and" else or_(*parts)


def _compared(session: Session, product: str, it: Comparison) -> ColumnElement[bool] | None:
    if it.fact == DEVICE_ID:
        return _by_id(session, it)
    if it.fact.startswith(ATTRIBUTES):
        return _by_attribute(session, it)
    if it.fact.startswith(COMPONENT):
        return _by_component(session, it)
    column = col(getattr(DeviceRow, it.fact))
    found = _values(session, select_columns(column).where(col(DeviceRow.product) == product))
    return None if found is None else column.in_([value for value in found if it.holds(_having(it.fact, value))])


def _by_id(session: Session, it: Comparison) -> ColumnElement[bool]:
    column = col(DeviceRow.id)
    if it.op == "has":
        return column.is_not(None)
    if it.op == "like":
        return _like(session, str(it.values[0]))
    same = column.in_([str(value) for value in it.values])
    return not_(same) if it.op in ("!=", "not in") else same


def _by_attribute(session: Session, it: Comparison) -> ColumnElement[bool] | None:
    row, name = DeviceAttributeRow, it.fact.removeprefix(ATTRIBUTES)
    among = select_columns(col(row.device_id)).where(col(row.name) == name)
    if it.op in ("==", "in") and all(isinstance(value, str) for value in it.values):  # as many as there may be
        return col(DeviceRow.id).in_(among.where(col(row.value).in_(it.values)))
    found = _values(session, select_columns(col(row.value)).where(col(row.name) == name))
    if found is None:
        return None
    holding = [value for value in found if it.holds(_having(it.fact, value))]
    return col(DeviceRow.id).in_(among.where(col(row.value).in_(holding))) if holding else false()


def _by_component(session: Session, it: Comparison) -> ColumnElement[bool] | None:
    row, component = ComponentRow, it.fact.removeprefix(COMPONENT).removesuffix(BUILD)
    asked = col(row.build) if it.fact.endswith(BUILD) else col(row.version)
    found = _values(session, select_columns(asked).where(col(row.component) == component))
    if found is None:
        return None
    holding = [value for value in found if it.holds(_having(it.fact, value))]
    among = select_columns(col(row.device_id)).where(col(row.component) == component, asked.in_(holding))
    return col(DeviceRow.id).in_(among) if holding else false()


def _values(session: Session, query: Select[Any]) -> list[str | int] | None:
    """Return a fact's values, each once; None if there are more than are compared."""
    found = list(session.execute(query.distinct().limit(MAX_VALUES + 1)).scalars())
    return None if len(found) > MAX_VALUES else found


def _having(fact: str, value: str | int) -> Candidate:
    """Return a device that has this value of a fact, and is compared in nothing else."""
    if fact.startswith(ATTRIBUTES):
        return Candidate(device_id="d", hardware_model="m", attributes={fact.removeprefix(ATTRIBUTES): str(value)})
    if fact.startswith(COMPONENT):
        component = fact.removeprefix(COMPONENT).removesuffix(BUILD)
        is_build = fact.endswith(BUILD)
        installed = Installed(version="0.0.0" if is_build else str(value), build=int(value) if is_build else 0)
        return Candidate(device_id="d", hardware_model="m", components={component: installed})
    if fact == VERSION:
        return Candidate(device_id="d", hardware_model="m", agent_version=str(value))
    if fact == "timezone":
        return Candidate(device_id="d", hardware_model="m", timezone=str(value))
    return Candidate(device_id="d", hardware_model=str(value))


def _like(session: Session, pattern: str) -> ColumnElement[bool]:
    """Return the condition that a device's id is like a pattern, of which `*` and `?` alone have a meaning."""
    column = col(DeviceRow.id)
    if session.get_bind().dialect.name == "sqlite":
        return func.glob(pattern.replace("[", "[[]"), column) == 1
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")
