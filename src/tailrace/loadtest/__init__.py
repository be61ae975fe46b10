"""Open-loop load: a schedule fixed in advance, latency counted from the intended send time, no shot skipped."""
