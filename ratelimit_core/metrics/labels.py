"""Labels of metrics. The number of labels is limited, and no label identifies a client."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from .._util.templates import FIELD, is_template
from ..circuit_breaker.definitions import definitions

MOST = 200
"""The maximum number of values of a label. All further values become ``other``."""


def label_of(name: str) -> str:
    """Return the label of a breaker: its name, or the template that its name was made from.

    If this process does not define the breaker and the name has a colon, the label is the part before the first colon,
    followed by ``:*``.
    """
    return labelling()(name)


def labelling() -> Callable[[str], str]:
    """Return a function that returns the same as :func:`label_of`, but is faster for many names."""
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
    """A filter that keeps the first :data:`MOST` labels, and replaces all others with ``other``."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, label: str) -> str:
        """Return ``label``, or ``other`` if there are too many labels."""
        if label in self._seen or len(self._seen) < MOST:
            self._seen.add(label)
            return label
        return "other"


def bounded(labels: Iterable[str]) -> Callable[[str], str]:
    """Return a function that keeps the first :data:`MOST` of ``labels``, and replaces all others with ``other``."""
    first = FirstSeen()
    for label in labels:
        first(label)
    return first
