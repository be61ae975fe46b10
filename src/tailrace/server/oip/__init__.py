"""The Open Inference Protocol, version 2: each pipeline is a model, each field of its request and response a tensor."""
