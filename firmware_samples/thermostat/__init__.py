"""A thermostat: measures, heats, shows."""
