"""Tailrace serves machine-learning decisions in real time, inside a latency budget."""
