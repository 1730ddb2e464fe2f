"""Stores that fail while a small load runs: what `gateway demo --chaos` shows."""
