"""The model optimiser: other forms of a packaged model, each measured apart, and the fastest that is as good."""
