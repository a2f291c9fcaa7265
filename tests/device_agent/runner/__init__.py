"""The runner with all that it is made of, on a simulated world and clock."""
