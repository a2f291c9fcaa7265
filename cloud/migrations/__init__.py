"""The database's schema, step by step: Alembic runs these when a store is opened."""
