"""Drift: live features, scores and decisions held against what the model was packaged on; outcomes. Constant memory."""
