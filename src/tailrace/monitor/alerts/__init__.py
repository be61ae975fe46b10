"""Alerts: rules that look at what was counted once a second, and who is told. Constant memory, by a monotonic clock."""
