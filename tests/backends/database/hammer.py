"""The hammer of the limits, on a database."""

from __future__ import annotations

import sys

from ratelimit_core.backends.database import DatabaseBackend
from tests import databases
from tests.limiter.hammer import hammer

if __name__ == "__main__":
    databases.setup()
    hammer(DatabaseBackend(sys.argv[1], timeout=20, key_prefix="hammer"))
