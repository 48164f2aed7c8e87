"""`python -m repro.cli`, which needs no script on the path."""

import sys

from repro.cli import main

sys.exit(main())
