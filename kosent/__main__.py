"""`python -m kosent` is `kosent`."""

import sys

from kosent.cli import main

sys.exit(main())
