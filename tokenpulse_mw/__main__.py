"""`python -m tokenpulse_mw` is the command."""

import sys

from .cli import main

sys.exit(main())
