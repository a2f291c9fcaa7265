"""The console in a real browser, and the fleets that it shows."""
