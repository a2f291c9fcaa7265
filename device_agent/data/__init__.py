"""Keeps an application's data safe while the schema of the data changes."""
