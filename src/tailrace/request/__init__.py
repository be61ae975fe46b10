"""Layer 1: what comes in. Schema, decoding, validation."""
