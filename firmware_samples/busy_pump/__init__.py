"""A pump that disables updates only while it is busy."""
