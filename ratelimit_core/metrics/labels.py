"""Labels that stay few, and name no client."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from .._util.templates import FIELD, is_template
from ..circuit_breaker import circuit_breaker_registry

MOST = 200
"""So many values a label has; what is beyond them is ``other``."""


def label_of(name: str) -> str:
    """A breaker's name; of one made from a template, the template.

    What another process made of a template that this one does not know is told by what is before the first colon.
    """
    return labelling()(name)


def labelling() -> Callable[[str], str]:
    """:func:`label_of`, for very many names."""
    known = dict.fromkeys(list(circuit_breaker_registry._breakers))
    templates = [template for template in known if is_template(template)]

    def label_of(name: str) -> str:
        for template in templates:
            if _pattern(template).fullmatch(name):
                return template
        head, colon, _ = name.partition(":")
        return name if not colon or name in known else f"{head}:*"

    return label_of


@lru_cache(maxsize=MOST)
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in FIELD.split(template)), re.DOTALL)


class FirstSeen:
    """Keeps the first :data:`MOST` labels that it is asked for, and calls the others ``other``."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, label: str) -> str:
        """What it is told by."""
        if label in self._seen or len(self._seen) < MOST:
            self._seen.add(label)
            return label
        return "other"


def bounded(labels: Iterable[str]) -> Callable[[str], str]:
    """What keeps the first :data:`MOST` of ``labels``, and calls the others ``other``."""
    first = FirstSeen()
    for label in labels:
        first(label)
    return first
