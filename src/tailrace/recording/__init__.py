"""Calls kept as they were, in one file, and sent again: `tailrace record`, `tailrace replay`."""
