"""The exceptions that signal handlers raise in the middle of other code."""

from __future__ import annotations

interruptions: set[type[Exception]] = set()
"""The exceptions that signal handlers raise. Code that such an exception passes through is not its cause."""
