"""The server's HTTP API: what the command line and every other operator's tool speak to."""
