"""Tokens of callers (JSON Web Tokens): whose signature is taken, and what one says of who shows it."""
