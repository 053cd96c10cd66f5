"""Limits on views: keys, addresses, decisions, headers and responses."""
