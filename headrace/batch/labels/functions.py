"""Labelling functions: how a module marks them, how it is loaded, and how they are applied to one record."""

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeAlias, TypeVar

from headrace.batch.labels.view import RecordView
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.digest import sha256_hex

FUNCTIONS_MAX = 200
LABEL_CHARACTERS_MAX = 200
ERROR_CHARACTERS_MAX = 100
MESSAGE_CHARACTERS_MAX = 300
LABEL_INVALID = "label_invalid"  # the error of a function that returned an invalid label

LabellingFunction: TypeAlias = Callable[[RecordView], str | None]
F = TypeVar("F", bound=LabellingFunction)

_MARK = "__headrace_labelling_function__"
_MODULE_NAME = "headrace_labelling_functions"
_VERSION_DIGITS = 16


@dataclass(frozen=True, slots=True)
class LabelModule:
    """The labelling functions of a file, in their order, and the SHA-256 of its source (hexadecimal)."""

    path: Path
    sha256: str
    functions: MappingProxyType[str, LabellingFunction]

    @property
    def version(self) -> str:
        """The default version: the first digits of the source's digest."""
        return self.sha256[:_VERSION_DIGITS]


@dataclass
class FunctionResults:
    """The results of the functions on one record, by name and in their order; `messages` explain the errors."""

    votes: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)


def labelling_function(function: F) -> F:
    """Mark a function that takes a record and returns its label, or None to abstain.

    Raises:
        TypeError: it is a coroutine function or a generator, or has no name.
    """
    is_wrong_kind = inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function)
    if is_wrong_kind or not hasattr(function, "__name__"):
        raise TypeError("a labelling function must be a plain function that returns a label or None")
    setattr(function, _MARK, True)
    return function


def load_module(path: Path) -> LabelModule:
    """Execute a file as a module with the caller's rights; it may import modules from its own directory.

    Raises:
        HeadraceError: the file cannot be read or executed, or has no labelling function.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise _module_error("file_unreadable", f"cannot read: {error.strerror}", path, "correct the path") from None
    functions = _functions_of(path, _execute(path, source))
    return LabelModule(path, sha256_hex(source), functions)


def apply_functions(functions: MappingProxyType[str, LabellingFunction], record: RecordView) -> FunctionResults:
    """Apply every function to a record; a function that raises or returns an invalid label has no vote."""
    results = FunctionResults()
    for name, function in functions.items():
        try:
            label = function(record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - user code must not end the run
            results.errors[name] = error.code if isinstance(error, HeadraceError) else _type_name(error)
            results.messages[name] = describe_error(error, function.__code__.co_filename)
            continue
        if is_label(label):
            results.votes[name] = str.__str__(label)  # a plain string, also where the label is of a subclass of str
        elif label is not None:
            results.errors[name] = LABEL_INVALID
            results.messages[name] = (
                f"it returned a {type(label).__name__}; a label is text of 1 to {LABEL_CHARACTERS_MAX} characters"
            )
    return results


def is_label(value: object) -> bool:
    """Return whether a value is a valid label: text that PostgreSQL can store."""
    if not isinstance(value, str) or not 1 <= len(value) <= LABEL_CHARACTERS_MAX or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe_error(error: BaseException, file: str) -> str:
    """Return an exception's type and message, and the last line of `file` in its traceback."""
    try:
        text = _message_of(error)
    except Exception:  # noqa: BLE001 - an exception's own __str__ may raise
        text = "it cannot be shown"
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    suffix = "" if line is None else f" (line {line})"
    return f"{_type_name(error)}: {text[:MESSAGE_CHARACTERS_MAX]}{suffix}"


def _execute(path: Path, source: bytes) -> ModuleType:
    module = ModuleType(_MODULE_NAME)
    module.__file__ = str(path)
    sys.modules[_MODULE_NAME] = module  # dataclasses look up their module by name
    sys.path.insert(0, str(path.resolve().parent))  # as Python does for a script
    try:
        # Executes the bytes that were hashed; an import would read the file again.
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the command exists to run it
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        what = f"the module cannot be loaded: {describe_error(error, str(path))}"
        raise _module_error("module_failed", what, path, "fix it and run the command again") from None
    return module


def _functions_of(path: Path, module: ModuleType) -> MappingProxyType[str, LabellingFunction]:
    try:
        functions = _marked(vars(module).values())
    except ValueError as error:
        raise _module_error("module_invalid", str(error), path, "give each function a name of its own") from None
    if not functions:
        hint = "decorate each labelling function with @labelling_function from `headrace`"
        raise _module_error("module_invalid", "the module has no labelling function", path, hint)
    if len(functions) > FUNCTIONS_MAX:
        what = f"the module has {len(functions)} labelling functions, more than {FUNCTIONS_MAX}"
        raise _module_error("module_invalid", what, path, "split it into several modules, each with its own version")
    return functions


def _marked(values: Iterable[Any]) -> MappingProxyType[str, LabellingFunction]:
    """Return the marked functions by name, in their order.

    Raises:
        ValueError: two functions share a name, or a name is invalid.
    """
    functions: dict[str, LabellingFunction] = {}
    for value in values:
        if not inspect.isfunction(value) or not hasattr(value, _MARK):
            continue
        if not is_label(value.__name__):
            raise ValueError(f"a labelling function's name is text of 1 to {LABEL_CHARACTERS_MAX} characters")
        if functions.setdefault(value.__name__, value) is not value:
            raise ValueError(f"two labelling functions are named {value.__name__}")
    return MappingProxyType(functions)


def _message_of(error: BaseException) -> str:
    match error:
        case HeadraceError():
            return error.what
        case SyntaxError():
            return str(error.msg)  # str(error) repeats the file and the line
        case _:
            return str(error)


def _type_name(error: BaseException) -> str:
    return type(error).__name__[:ERROR_CHARACTERS_MAX]


def _module_error(code: str, what: str, path: Path, hint: str) -> HeadraceError:
    return HeadraceError(code, what, where=str(path), hint=hint, exit_code=Exit.USAGE)
