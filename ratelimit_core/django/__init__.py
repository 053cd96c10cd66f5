"""The Django integration: views, middleware, admin, system checks, commands, and the database backend's tables.

Put ``"ratelimit_core.django"`` into ``INSTALLED_APPS``.
"""
