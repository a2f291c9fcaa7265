"""Everything that holds Fleetlift to its word."""
