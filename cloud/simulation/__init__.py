"""Rehearses a plan on fleets that are made up: virtual time, real selection and guard, and devices as chances."""
