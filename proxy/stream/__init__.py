"""Framing of streamed answers and the line of taps: sans-io, synchronous, no policy."""
