"""A logger whose data has a schema that changes."""
