"""The observer: a process that is told of what all workers predict, and the watches that make something of it."""
