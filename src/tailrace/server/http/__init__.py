"""HTTP/1.1 on one event loop: connections, their limits, and the framing of answers."""
