"""`python -m repro.cli`, which works without the `repro` script on the path."""

import sys

from repro.cli import main

sys.exit(main())
