"""Tests of rehearsals: the simulator's answers against arithmetic."""
