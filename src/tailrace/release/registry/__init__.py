"""The registry of models: numbered versions that never change, aliases that move, in a directory or a bucket."""
