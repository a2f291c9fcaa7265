"""Tests of both wings together, over a real broker."""
