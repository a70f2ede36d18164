from tests.faults.bad_builds.registry import BUILDS, become

__all__ = ["BUILDS", "become"]
