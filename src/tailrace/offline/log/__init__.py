"""The prediction log as a source: SQL over its lines, training sets and samples of them, and labels that come later."""
