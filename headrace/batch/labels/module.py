"""A file of labelling functions: read once, named by its digest, and executed with the rights of whoever calls."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

from headrace.batch.labels.functions import LabellingFunction, marked, said_by
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.digest import sha256_hex

FUNCTIONS_MAX = 200
_VERSION_DIGITS = 16

_NAME = "headrace_labelling_functions"


@dataclass(frozen=True, slots=True)
class Module:
    """The functions of a file, in their order, and the hexadecimal SHA-256 of its source."""

    path: Path
    sha256: str
    functions: MappingProxyType[str, LabellingFunction]

    @property
    def version(self) -> str:
        """The version that the source itself names."""
        return self.sha256[:_VERSION_DIGITS]


def load_module(path: Path) -> Module:
    """Execute a file as a module of its own, which may import what stands beside it.

    Raises:
        HeadraceError: it cannot be read or executed, or has no labelling function.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise _wrong("file_unreadable", f"cannot read: {error.strerror}", path, "correct the path") from None
    functions = _functions(path, _executed(path, source))
    return Module(path, sha256_hex(source), functions)


def _executed(path: Path, source: bytes) -> ModuleType:
    module = ModuleType(_NAME)
    module.__file__ = str(path)
    sys.modules[_NAME] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.resolve().parent))  # as Python does for a file that it is given
    try:
        # What was digested is what is executed: an import would read the file once more.
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the command exists to run it
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it is somebody else's code
        what = f"the module cannot be loaded: {said_by(error, str(path))}"
        raise _wrong("module_failed", what, path, "mend it, and run it again") from None
    return module


def _functions(path: Path, module: ModuleType) -> MappingProxyType[str, LabellingFunction]:
    try:
        functions = marked(vars(module).values())
    except ValueError as error:
        raise _wrong("module_invalid", str(error), path, "give each a name of its own") from None
    if not functions:
        hint = "put @labelling_function, which `headrace` exports, above each function that labels"
        raise _wrong("module_invalid", "the module has no labelling function", path, hint)
    if len(functions) > FUNCTIONS_MAX:
        what = f"the module has {len(functions)} labelling functions, more than {FUNCTIONS_MAX}"
        raise _wrong("module_invalid", what, path, "take fewer, or several modules with a version each")
    return functions


def _wrong(code: str, what: str, path: Path, hint: str) -> HeadraceError:
    return HeadraceError(code, what, where=str(path), hint=hint, exit_code=Exit.USAGE)
