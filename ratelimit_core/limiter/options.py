"""Check the options of a limiter, and make its limits from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from .._util.redact import without_secrets
from .._util.suggest import not_one_of
from ..backends.base import Backend
from ..config.schema import OnStoreFailure
from ..errors import ConfigurationError
from ..rates import Rate, parse_rates
from .limit import Algorithm, Limit


def check_options(key: object, backend: object, on_store_failure: object) -> None:
    """Check the options of a :class:`Limiter` that apply to all its limits.

    Raises:
        ConfigurationError: an option is wrong.
    """
    if on_store_failure not in get_args(OnStoreFailure):
        raise not_one_of("on_store_failure", on_store_failure, get_args(OnStoreFailure))
    if not (key and isinstance(key, str)):
        raise ConfigurationError(f"key={key!r} should be a string that says what is limited, as in key='supplier'")
    if backend is not None and not isinstance(backend, Backend):
        raise ConfigurationError(
            f"backend={without_secrets(backend)} should be a Backend, as in RedisBackend('redis://...')"
        )


def make_limits(
    rate: str | Rate | Iterable[str | Rate] | None,
    algorithm: Algorithm,
    burst: int | None,
    spacing_margin: float,
    concurrency: int | None,
    timeout: float,
) -> list[Limit]:
    """Make the limits from the options of a :class:`Limiter`.

    Raises:
        ConfigurationError: an option is wrong.
    """
    if algorithm not in get_args(Algorithm):
        raise not_one_of("algorithm", algorithm, get_args(Algorithm))
    if burst is not None and algorithm != "token_bucket":
        raise ConfigurationError(
            f"burst={burst!r} goes with algorithm='token_bucket', not {algorithm!r}: leave out burst, or change the "
            "algorithm"
        )
    if type(spacing_margin) not in (int, float) or not 0 <= spacing_margin <= 1:
        raise ConfigurationError(
            f"spacing_margin={spacing_margin!r} should be a fraction from 0 to 1, as in spacing_margin=0.03"
        )
    if rate is None and concurrency is None:
        raise ConfigurationError("a limiter needs a rate, as in Limiter('10/s', key=...), or a concurrency")
    rates = () if rate is None else parse_rates(rate)
    limits = [Limit.of_rate(each, algorithm, burst, spacing_margin) for each in rates]
    if concurrency is not None:
        limits.append(Limit.of_concurrency(concurrency, timeout))
    return limits
