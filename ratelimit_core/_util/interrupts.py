"""Exceptions that signal handlers raise in the middle of other code."""

from __future__ import annotations

interruptions: set[type[Exception]] = set()
"""What handlers of signals raise in the middle of anything: it says nothing about whoever was at work there."""
