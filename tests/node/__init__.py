"""Issuers of others, which run under Node.js."""
