"""Every parser of bytes from outside, against inputs that nobody meant to send (docs/fuzzing.md)."""
