"""What Alembic runs: bring the schema up to date on the connection that the store hands over, in one transaction.

There is no offline mode and no `alembic.ini`: a database is migrated when it is opened, and by nothing else.
"""

from alembic import context

from cloud.models import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # the store's transaction covers SQLite's DDL too
)
with context.begin_transaction():
    context.run_migrations()
