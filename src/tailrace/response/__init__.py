"""Layer 5: what goes out. Encoding, problem details."""
