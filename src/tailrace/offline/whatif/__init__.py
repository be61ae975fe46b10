"""What another version would have decided: requests go through two pipelines, and what differs is told."""
