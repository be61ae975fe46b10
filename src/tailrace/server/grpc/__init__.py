"""gRPC: the same pipelines, engines and batches, for clients that call typed services."""
