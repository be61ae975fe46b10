"""From a trained model to a model directory."""
