"""The path that settings name: ``ratelimit_core.backends.redis_backend.RedisBackend``."""

from .redis.backend import RedisBackend

__all__ = ["RedisBackend"]
