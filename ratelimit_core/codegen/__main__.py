"""Run the code generator: ``python -m ratelimit_core.codegen``."""

import sys

from . import main

sys.exit(main())
