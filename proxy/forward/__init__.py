"""Forward: one request, shaped for one target, to a provider and its answer back. Meters nothing and words nothing for the client."""
