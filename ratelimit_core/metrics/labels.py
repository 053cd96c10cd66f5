"""Labels of metrics. Their number is bounded, and they identify no client."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from .._util.templates import FIELD, is_template
from ..circuit_breaker.definitions import definitions

MOST = 200
"""The greatest number of values that a label has. All others are ``other``."""


def label_of(name: str) -> str:
    """Return the label of a breaker: its name, or the template that its name was made from.

    If this process does not know the template, the label is the part of the name before the first colon.
    """
    return labelling()(name)


def labelling() -> Callable[[str], str]:
    """Return :func:`label_of` as a function that is fast for very many names."""
    known = dict.fromkeys(list(definitions))
    templates = [template for template in known if is_template(template)]

    def label_of(name: str) -> str:
        for template in templates:
            if _pattern(template).fullmatch(name):
                return template
        head, colon, _ = name.partition(":")
        label = name if not colon or name in known else f"{head}:*"
        return label if label.isascii() else label.encode("utf-8", "backslashreplace").decode()  # exporters write UTF-8

    return label_of


@lru_cache(maxsize=MOST)
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in FIELD.split(template)), re.DOTALL)


class FirstSeen:
    """Keeps the first :data:`MOST` labels, and replaces all others with ``other``."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, label: str) -> str:
        """Return ``label`` or ``other``."""
        if label in self._seen or len(self._seen) < MOST:
            self._seen.add(label)
            return label
        return "other"


def bounded(labels: Iterable[str]) -> Callable[[str], str]:
    """Return a function that keeps the first :data:`MOST` of ``labels`` and replaces others with ``other``."""
    first = FirstSeen()
    for label in labels:
        first(label)
    return first
