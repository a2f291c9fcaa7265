"""The `fleetlift` command, as a real process."""
