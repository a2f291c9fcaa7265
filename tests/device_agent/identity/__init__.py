"""Tests of the device's identity."""
