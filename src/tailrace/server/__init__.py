"""Sockets and processes: HTTP, worker, supervisor."""
