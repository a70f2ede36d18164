"""Run a command of the service as a bad build: `python -m tests.faults.bad_builds NAME worker --kinds cids,ldos`."""

import sys

from headrace.cli.app import main
from tests.faults.bad_builds import become

become(sys.argv.pop(1))
main()
