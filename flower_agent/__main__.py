"""Start the command line with ``python3 -m flower_agent``."""

import sys

from flower_agent.cli import main

sys.exit(main())
