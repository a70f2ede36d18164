"""The `headrace` command with the schemas of another folder: a deployment that knows a version which this one lacks.

python headrace_with_schemas.py FOLDER worker --kinds cids
"""

import sys
from pathlib import Path

from headrace.schemas.registry import REGISTRY

if __name__ == "__main__":
    # Everything shares the one registry, so it is filled anew in its place.
    REGISTRY.__init__(Path(sys.argv.pop(1)))  # type: ignore[misc]
    from headrace.cli.app import main

    main()
