"""The console: the fleet in a browser. Its pages tell what the API tells, and do what the API does."""
