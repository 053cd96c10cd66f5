"""Runs the system checks under settings that come in, one line of JSON each, and prints what they say."""

from __future__ import annotations

import json
import sys

import django
from django.core.checks import run_checks
from django.test import override_settings

from ratelimit_core.store import configured

if __name__ == "__main__":
    django.setup()
    for line in sys.stdin:
        with override_settings(**json.loads(line)):
            configured.forget()
            found = [(each.id, each.msg, each.hint or "") for each in run_checks(tags=["ratelimit"])]
        print("checked", json.dumps(found), flush=True)
