"""The cloud's memory: every row stays in here, frozen values leave it, and each change is one transaction."""
