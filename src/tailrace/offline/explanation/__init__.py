"""One decision whole: what the prediction log says of a request, and what its release says of it again."""
