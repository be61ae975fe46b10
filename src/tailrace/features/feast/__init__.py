"""Feast's own format: the values that Feast has written are read as they are. Nothing of Feast is imported."""
