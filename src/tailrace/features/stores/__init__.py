"""Where packed rows live: LMDB, Redis, memory."""
