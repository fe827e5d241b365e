"""``python -m dgn``: the same as the command ``dgn``."""

import sys

from dgn.cli.main import main

sys.exit(main())
