"""`tailrace models`: the registry of models. Each of its commands lives in a file named for what it does."""
