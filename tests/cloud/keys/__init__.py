"""Tests of who holds keys, what they sign, and how they change."""
