"""The schema that the migrations make is the one that the rows describe, and each step can be taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloud import event_models, rollout_models
from cloud.models import Row
from cloud.store.engine import MIGRATIONS, Database

ROWS_ELSEWHERE = (event_models, rollout_models)
"""Modules whose rows are part of the schema as soon as they are imported."""


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    path = tmp_path / "migrated.db"
    Database.open(f"sqlite:///{path}", lambda: 0.0).close()
    return sa.create_engine(f"sqlite:///{path}")


def configured(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def test_migrating_makes_exactly_what_the_rows_describe(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Row.metadata) == []
        there = sa.inspect(connection)
        for table in Row.metadata.sorted_tables:
            described = {item.name for item in table.constraints if isinstance(item, sa.UniqueConstraint)}
            assert {item["name"] for item in there.get_unique_constraints(table.name)} == described, table.name
    engine.dispose()


def test_every_step_can_be_taken_back_and_again(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(configured(connection), "base")
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(configured(connection), "head")
        assert len(sa.inspect(connection).get_table_names()) == len(Row.metadata.tables) + 1
    engine.dispose()


def test_the_steps_are_one_line() -> None:
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(MIGRATIONS))
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_the_schema_is_valid_on_postgresql_too() -> None:
    """Compiled, not run: no type, constraint or index is SQLite's own."""
    dialect = sa.make_url("postgresql://").get_dialect()()
    for table in Row.metadata.sorted_tables:
        text = str(sa.schema.CreateTable(table).compile(dialect=dialect))
        assert text.strip().startswith("CREATE TABLE")
        for index in table.indexes:
            assert str(sa.schema.CreateIndex(index).compile(dialect=dialect)).startswith("CREATE INDEX")
