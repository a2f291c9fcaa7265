"""Tests of the examination of brokers."""
