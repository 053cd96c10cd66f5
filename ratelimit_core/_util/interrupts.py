"""The exceptions that signal handlers raise in the middle of other code."""

from __future__ import annotations

interruptions: set[type[Exception]] = set()
"""The exceptions that signal handlers raise. They do not mean that the interrupted code failed."""
