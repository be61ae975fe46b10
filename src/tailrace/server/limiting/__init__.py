"""What callers may have of a worker: rates and calls in flight, of a key and of a pipeline."""
