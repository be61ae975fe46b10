"""Traces: spans of what was served, made in the observer, and sent to where traces are kept."""
