"""What each part counts into the cells of its process: one file a part, one class that looks or is told."""
