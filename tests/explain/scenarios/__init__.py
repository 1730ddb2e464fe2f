"""Scenarios of refused requests: each with its verdict, its cause, and what its fix says and never says."""
