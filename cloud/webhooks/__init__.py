"""Webhooks: who is told of what happens, signed, retried until it is taken, and never led into the private network."""
