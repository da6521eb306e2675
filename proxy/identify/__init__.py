"""Room: who is calling, from the headers alone. Decides nothing about what the caller may do."""
