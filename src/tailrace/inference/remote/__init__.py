"""Models that another server computes: asked over pooled connections, many batches in flight, under the deadline."""
