"""``python -m containerssh``."""

import sys

from containerssh.cli.main import main

sys.exit(main())
