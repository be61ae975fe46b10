"""Checks of requests after their answers, in a process beside the worker."""
