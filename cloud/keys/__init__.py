"""The operator's keys: who holds them, what they have signed, and how they change."""
