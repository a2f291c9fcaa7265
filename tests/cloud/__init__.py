"""Tests of the cloud wing."""
