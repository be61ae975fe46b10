"""Layer 4: what is decided. Bands, labels, rules."""
