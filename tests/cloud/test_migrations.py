"""The schema that the migrations make is the one that the rows describe, and each step can be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloud import device_models, event_models, people_models, rollout_models
from cloud.models import Row
from cloud.store.engine import MIGRATIONS, Database
from tests.support.postgres import Cluster

ROWS_ELSEWHERE = (device_models, event_models, people_models, rollout_models)
"""Modules whose rows are part of the schema as soon as they are imported."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database that has just been made, of each of the two kinds in turn."""
    url = f"sqlite:///{tmp_path / 'migrated.db'}"
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgresql")
        url = cluster.url(cluster.create())
    Database.open(url, lambda: 0.0).close()
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


def configured(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def differs(_context: object, _there: object, described: sa.Column[Any], found: str | None, *_: object) -> bool | None:
    """Whether the default differs; PostgreSQL cannot compare JSON values, and Alembic has it try."""
    if not isinstance(described.type, sa.JSON) or not isinstance(described.server_default, sa.DefaultClause):
        return None
    return (found or "").removesuffix("::json") != f"'{described.server_default.arg}'"


def test_migrating_makes_exactly_what_the_rows_describe(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": differs})
        assert compare_metadata(context, Row.metadata) == []
        there = sa.inspect(connection)
        for table in Row.metadata.sorted_tables:
            described = {item.name for item in table.constraints if isinstance(item, sa.UniqueConstraint)}
            assert {item["name"] for item in there.get_unique_constraints(table.name)} == described, table.name


def test_every_step_can_be_taken_back_and_again(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(configured(connection), "base")
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(configured(connection), "head")
        assert len(sa.inspect(connection).get_table_names()) == len(Row.metadata.tables) + 1


def test_the_steps_are_one_line() -> None:
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(MIGRATIONS))
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_texts_are_sorted_byte_by_byte_on_both(engine: sa.Engine) -> None:
    """Not as a locale would have it: pages of ids, and what is sorted here and there, come in one order."""
    with engine.begin() as connection:
        add = "INSERT INTO counter (name, value) VALUES ('a-b', 0), ('B', 0), ('aa', 0), ('a', 0), ('é', 0), ('z', 0)"
        connection.exec_driver_sql(add)
        names = connection.exec_driver_sql("SELECT name FROM counter ORDER BY name").scalars().all()
        assert list(names) == sorted(names)
        if engine.dialect.name == "postgresql":
            query = """SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' AND
                data_type = 'character varying' AND collation_name IS DISTINCT FROM 'C' AND column_name <> 'version_num'
            """
            assert connection.exec_driver_sql(query).all() == []


def test_what_was_there_before_a_step_is_there_after_it(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(configured(connection), "0001")
        connection.exec_driver_sql(
            "INSERT INTO product (id, hardware_models, ota_enabled, created_at_ms) VALUES ('lamp', '[]', true, 1)"
        )
        device = sa.Table("device", sa.MetaData(), autoload_with=connection)
        held: dict[str, Any] = {
            "availability": {"enabled": True, "holds": [{"owner": "a", "why": "b", "expires_at_ms": 7}]},
            "pending": [{"component": "app", "version": "1.0.0", "source_id": "r-1", "why": "held"}],
            "refused": {"expired": 1},
        }
        known = {"id": "lamp-1", "product": "lamp", "hardware_model": "x", "agent_version": "1.0.0", "encodings": []}
        numbers = {it.name: 1 for it in device.columns if not it.nullable and isinstance(it.type, sa.Integer)}
        flags = {"online": False, "has_pending": False}
        said = {"attributes": {"site": "hall"}, "state": held}
        connection.execute(device.insert().values(numbers | flags | known | said))
        audit = sa.Table("audit", sa.MetaData(), autoload_with=connection)
        for number, action in enumerate(("group.added", "release.created", "group.removed"), 1):
            whom = {"before": '{"devices": ["lamp-1"]}', "after": '{"devices": ["lamp-2"]}'}
            texts = {it.name: "" for it in audit.columns if isinstance(it.type, sa.String)}
            connection.execute(audit.insert().values(texts | whom | {"number": number, "at_ms": 1, "action": action}))
        command.upgrade(configured(connection), "head")
        decided = connection.exec_driver_sql("SELECT number, device_id FROM decided_device ORDER BY 1, 2").all()
        assert [tuple(it) for it in decided] == [(n, it) for n in (1, 3) for it in ("lamp-1", "lamp-2")]
        attribute = connection.exec_driver_sql("SELECT device_id, name, value FROM device_attribute").one()
        assert tuple(attribute) == ("lamp-1", "site", "hall")
        assert connection.exec_driver_sql("SELECT held_until_ms FROM device").scalar_one() == 7
        pending = connection.exec_driver_sql("SELECT device_id, place, why, detail FROM device_pending").one()
        assert tuple(pending) == ("lamp-1", 0, "held", "")
        assert connection.exec_driver_sql("SELECT has_refused FROM device").scalar_one()
        row = connection.exec_driver_sql("SELECT id, base_only, approvals FROM product").one()
        assert tuple(row) == ("lamp", False, 0)
