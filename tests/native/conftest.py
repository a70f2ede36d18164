from collections.abc import Iterator

import pytest

from headrace.native import StackInfo, temporary_stack
from headrace.native.minio import binary_at_hand


@pytest.fixture(scope="package")
def stack() -> Iterator[StackInfo]:
    with temporary_stack("minio" if binary_at_hand() else "local") as info:
        yield info
