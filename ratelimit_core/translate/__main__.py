"""``python -m ratelimit_core.translate``."""

import sys

from . import main

sys.exit(main())
