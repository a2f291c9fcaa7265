"""Tests of the device wing."""
