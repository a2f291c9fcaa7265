"""The rows of docs/capabilities.md that happen on the device, each through a real broker, cloud and agent."""
