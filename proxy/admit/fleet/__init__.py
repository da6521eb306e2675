"""The shared state of a fleet, in Redis or Valkey: a fast index over the sidecars' own journals. Never the book of record."""
