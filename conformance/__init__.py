"""The agent's TUF client behind the command line of the public conformance suite (`docs/conformance.md`)."""
