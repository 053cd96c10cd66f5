"""``manage.py ratelimit_...``: one command in each module."""
