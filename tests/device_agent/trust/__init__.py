"""Tests of what a device trusts."""
