"""TLS: certificates that may change while a server runs, and the transport over which a connection is secret."""
