"""The module in the dotted path that settings use, ``ratelimit_core.backends.redis_backend.RedisBackend``."""

from .redis.backend import RedisBackend

__all__ = ["RedisBackend"]
