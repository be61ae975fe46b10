"""Events in: from requests, streams and files, into the states of stream views, each counted once."""
