"""`python -m headrace.native` installs what takes long, so that a stack starts in seconds afterwards."""

import sys

from headrace.native.prepare import install
from headrace.runtime.errors import HeadraceError


def main() -> None:
    """Install the servers."""
    try:
        install(report)
    except HeadraceError as error:
        report(str(error))
        sys.exit(error.exit_code)


def report(line: str) -> None:
    """Report progress on standard error."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
