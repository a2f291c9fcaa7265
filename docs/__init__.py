"""The documents, and what their site is built by."""
