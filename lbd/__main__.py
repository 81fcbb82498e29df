"""`python -m lbd`."""

from __future__ import annotations

import sys

from lbd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
