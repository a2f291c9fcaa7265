"""Webhooks, to real receivers on loopback."""
