"""``python -m benchmarks``: see ``benchmarks.training``, which child processes can import (a ``__main__`` they cannot)."""

import sys

from benchmarks.training import main

if __name__ == "__main__":
    sys.exit(main())
