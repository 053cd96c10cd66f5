"""Rates, and how to read them from text such as ``100/h``, ``10/30s``, ``5/minute``, or ``10/s;1000/h`` (two rates)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ._util.clock import LONGEST, SECOND
from .errors import ConfigurationError

_UNITS = {  # in milliseconds
    "ms": 1, "s": 1000, "sec": 1000, "second": 1000, "seconds": 1000,
    "m": 60_000, "min": 60_000, "minute": 60_000, "minutes": 60_000,
    "h": 3_600_000, "hour": 3_600_000, "hours": 3_600_000, "d": 86_400_000, "day": 86_400_000, "days": 86_400_000,
}  # fmt: skip
_RATE = re.compile(r"\s*(\d{1,15})\s*/\s*(\d{0,15})\s*([a-z]+)\s*", re.ASCII | re.IGNORECASE)
_MAX_LIMIT = 1_000_000_000
_BOUNDS = "the limit must be from 1 to a billion, and the period in whole milliseconds, at most 400 days"
_EXPECTED = "write for example '100/h', '10/30s', '5/minute', or several as '10/s;1000/h'"


@dataclass(frozen=True, slots=True, order=True)
class Rate:
    """A rate: at most ``limit`` calls in each ``period`` of seconds."""

    limit: int
    period: float

    def __post_init__(self) -> None:
        if not (
            type(self.limit) is int
            and type(self.period) in (int, float)
            and 1 <= self.limit <= _MAX_LIMIT
            and 0.001 <= self.period <= LONGEST / SECOND
            and self.period == self._milliseconds / 1000
        ):
            raise ConfigurationError(f"a rate of {self.limit!r} per {self.period!r} s: {_BOUNDS}; {_EXPECTED}")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read one rate, such as ``100/h`` for 100 in one hour.

        The units are ms, s, m, h and d. All units except ms may also be written out, as in ``5/minute``.

        Raises:
            ConfigurationError: ``text`` is not a rate. The message shows how to write a rate.
        """
        match = _RATE.fullmatch(str(text))
        unit = _UNITS.get(match[3].lower()) if match else None
        if match is None or unit is None:
            raise ConfigurationError(f"{text!r} is not a rate; {_EXPECTED}")
        try:
            return cls(int(match[1]), int(match[2] or 1) * unit / 1000)
        except ConfigurationError:
            raise ConfigurationError(f"{text!r} is not a rate: {_BOUNDS}; {_EXPECTED}") from None

    @property
    def _milliseconds(self) -> int:
        return round(self.period * 1000)

    @property
    def period_us(self) -> int:
        """The period in microseconds."""
        return self._milliseconds * 1000

    @property
    def spacing_us(self) -> int:
        """Microseconds between two evenly spaced calls, rounded up."""
        return -(-self.period_us // self.limit)

    def __str__(self) -> str:
        unit = next(unit for unit in ("d", "h", "m", "s", "ms") if self._milliseconds % _UNITS[unit] == 0)
        count = self._milliseconds // _UNITS[unit]
        return f"{self.limit}/{'' if count == 1 else count}{unit}"


def parse_rates(rates: str | Rate | Iterable[str | Rate]) -> tuple[Rate, ...]:
    """Read one or several rates, and drop duplicates.

    Raises:
        ConfigurationError: ``rates`` is empty, or contains something that is not a rate.
    """
    if isinstance(rates, Rate):
        return (rates,)
    try:
        parts: list[str | Rate] = [*rates.split(";")] if isinstance(rates, str) else list(rates)
    except TypeError:
        parts = []
    if not parts:
        raise ConfigurationError(f"{rates!r} is not a rate; {_EXPECTED}")
    return tuple(dict.fromkeys(part if isinstance(part, Rate) else Rate.parse(part) for part in parts))
