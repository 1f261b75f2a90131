"""``python -m mechdiff``."""

import sys

from mechdiff.cli import main

sys.exit(main())
