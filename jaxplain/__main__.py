"""`python -m jaxplain` is the command `jaxplain`."""

import sys

from jaxplain.cli import main

sys.exit(main())
