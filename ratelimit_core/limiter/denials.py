"""How many hits were denied in this process."""

from __future__ import annotations

from collections import Counter

denials: Counter[tuple[str, str]] = Counter()
"""How many hits were denied in this process, by the limit as it is written and its policy's name."""
_MOST_DENYING = 1000
"""Of so many limits: a program may make them up as it goes."""
