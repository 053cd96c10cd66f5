"""Helpers for all packages: clocks, ids, text, forks, event loops."""
