"""Room: books, metrics and log of what happened. Changes nothing about a call."""
