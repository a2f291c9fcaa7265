"""Tests of the conformance client, which others run the public suite against."""
