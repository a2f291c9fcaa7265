"""Tests of the fleet's certificates."""
