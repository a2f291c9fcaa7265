"""End-to-end tests of who may listen, speak and command: real broker, server, agents, and those in between."""
