"""What stands around servers in production: the configurations of what is in front of them."""
