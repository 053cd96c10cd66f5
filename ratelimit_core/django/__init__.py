"""The Django face: views, middleware, admin, system checks, commands, and the tables of the database backend.

Put ``"ratelimit_core.django"`` into ``INSTALLED_APPS``.
"""
