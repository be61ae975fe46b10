"""The console: one page on the admin port that shows how the server is doing, now and over the last day."""
