"""Requests that are accepted first and answered elsewhere: a journal on disk, who scores it, and who delivers."""
