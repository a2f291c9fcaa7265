"""Slots: where a component's images lie, which of them runs, and the way back."""
