"""Releases that guard themselves: a plan, the evidence that devices give, and what follows from both. Pure."""
