"""Attacks on a whole fleet: each is delivered, refused, and leaves the device as it was and able to update."""
