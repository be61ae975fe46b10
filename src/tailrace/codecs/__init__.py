"""Bytes to requests and answers to bytes: one codec a format, one validation for all."""
