"""The prediction log elsewhere: what is on this machine's disk is sent on to a bucket, a broker or a Redis stream."""
