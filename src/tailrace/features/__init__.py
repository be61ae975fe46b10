"""Layer 2: what is known. Views, packed rows, retrieval."""
