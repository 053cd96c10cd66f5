"""Limits on views: keys, addresses, headers and responses."""
