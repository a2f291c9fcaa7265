"""The fleet's certificates: who may sign them, what they say, and when they are renewed."""
