"""`python -m initconf`: the command `initconf`."""

import sys

from initconf.cli import main

if __name__ == "__main__":
    sys.exit(main())
