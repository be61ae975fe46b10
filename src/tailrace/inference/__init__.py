"""Layer 3: what the model says. Signature, model directory, ONNX Runtime, cost curve."""
