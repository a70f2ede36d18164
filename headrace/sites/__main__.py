"""`python -m headrace.sites` installs what a mirror needs, so that it starts in seconds and without a network."""

import sys

from headrace.native.__main__ import report
from headrace.native.prepare import install_kafka
from headrace.runtime.errors import HeadraceError
from headrace.sites.transform import transform_classes


def main() -> None:
    """Install Kafka's jars, and compile the transformation."""
    try:
        transform_classes(install_kafka(report), report)
    except HeadraceError as error:
        report(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
