"""What ``python -m ratelimit_core.codegen`` makes of the policies. Change the policies instead, and generate again."""
