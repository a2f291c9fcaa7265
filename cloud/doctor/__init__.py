"""Examines a running broker from outside, as devices, strangers and the cloud see it."""
