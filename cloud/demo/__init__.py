"""The demonstration: real processes, real firmware, and every claim checked from outside."""
