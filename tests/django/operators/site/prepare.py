"""Makes the tables, and the people: each is called as what he may do, and that is his password too."""

from __future__ import annotations

import django
from django.core.management import call_command

if __name__ == "__main__":
    django.setup()
    from django.contrib.auth.models import Permission, User

    call_command("migrate", verbosity=0)
    call_command("migrate", "ratelimit_core", database="resilience", verbosity=0)
    for name, permissions in {
        "nothing": [],
        "view": ["view_breaker"],
        "control": ["view_breaker", "change_breaker"],
    }.items():
        user = User.objects.create_user(name, password=name, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
