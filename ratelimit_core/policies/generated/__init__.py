"""The files that ``python -m ratelimit_core.codegen`` generates from the policies. Change the policies, not these."""
