"""Tests of what keeps an application's data safe."""
