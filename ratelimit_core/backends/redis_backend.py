"""The module that settings name, as in ``ratelimit_core.backends.redis_backend.RedisBackend``."""

from .redis.backend import RedisBackend

__all__ = ["RedisBackend"]
