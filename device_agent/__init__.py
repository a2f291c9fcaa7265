"""The device wing: decides with the application when to update, streams, verifies, tries and falls back."""
