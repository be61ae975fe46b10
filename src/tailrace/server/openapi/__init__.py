"""The HTTP API described for machines and people: an OpenAPI document, made of the types, and a page that reads it."""
