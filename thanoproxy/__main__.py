"""`python -m thanoproxy`."""

import sys

from thanoproxy.cli import main

sys.exit(main())
