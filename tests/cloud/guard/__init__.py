"""Tests of the guard: pure values in, pure values out."""
