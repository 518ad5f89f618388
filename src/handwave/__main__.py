"""`python -m handwave`: what the command `handwave` does."""

import sys

from handwave.cli import main

if __name__ == "__main__":
    sys.exit(main())
