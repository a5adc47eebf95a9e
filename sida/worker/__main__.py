"""``python -m sida.worker``: see :mod:`sida.worker.main`."""

import sys

from sida.worker.main import main

sys.exit(main())
