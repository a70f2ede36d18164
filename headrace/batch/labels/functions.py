"""What labelling functions are, and what one record is called by them. Pure, but for what the functions do."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from headrace.batch.labels.view import RecordView
from headrace.runtime.errors import HeadraceError

LABEL_CHARACTERS_MAX = 200
ERROR_CHARACTERS_MAX = 100
MESSAGE_CHARACTERS_MAX = 300
LABEL_INVALID = "label_invalid"  # the error of a function that returned what is no label

LabellingFunction: TypeAlias = Callable[[RecordView], str | None]
F = TypeVar("F", bound=LabellingFunction)

_MARK = "__headrace_labelling_function__"


@dataclass
class Answers:
    """What functions said of one record, by their names and in their order; `messages` explain the errors."""

    votes: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)


def labelling_function(function: F) -> F:
    """Mark a function over a record that returns its label, or None to abstain.

    Raises:
        TypeError: it is a coroutine function or a generator, or has no name.
    """
    wrong = inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function)
    if wrong or not hasattr(function, "__name__"):
        raise TypeError("a labelling function is a plain function that returns a label or None")
    setattr(function, _MARK, True)
    return function


def marked(values: Iterable[Any]) -> MappingProxyType[str, LabellingFunction]:
    """Return the labelling functions among values, by their names and in their order.

    Raises:
        ValueError: two of them have one name, or one has a name that cannot be shown or kept.
    """
    found: dict[str, LabellingFunction] = {}
    for value in values:
        if not inspect.isfunction(value) or not hasattr(value, _MARK):
            continue
        if not is_label(value.__name__):
            raise ValueError(f"a labelling function's name is text of 1 to {LABEL_CHARACTERS_MAX} characters")
        if found.setdefault(value.__name__, value) is not value:
            raise ValueError(f"two labelling functions are named {value.__name__}")
    return MappingProxyType(found)


def ask(functions: MappingProxyType[str, LabellingFunction], record: RecordView) -> Answers:
    """Ask every function about a record; one that raises, or returns what is no label, has no vote."""
    answers = Answers()
    for name, function in functions.items():
        try:
            said = function(record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - it is somebody else's code, and ends nothing
            answers.errors[name] = error.code if isinstance(error, HeadraceError) else _name_of(error)
            answers.messages[name] = said_by(error, function.__code__.co_filename)
            continue
        if is_label(said):
            answers.votes[name] = str.__str__(said)  # what is a string and more is its text only
        elif said is not None:
            answers.errors[name] = LABEL_INVALID
            answers.messages[name] = (
                f"it returned a {type(said).__name__}; a label is text of 1 to {LABEL_CHARACTERS_MAX} characters"
            )
    return answers


def is_label(said: object) -> bool:
    """Say whether a value may be a label: text that the catalog can hold, and a person can read in a table."""
    if not isinstance(said, str) or not 1 <= len(said) <= LABEL_CHARACTERS_MAX or "\0" in said:
        return False
    try:
        said.encode()
    except UnicodeEncodeError:
        return False
    return True


def said_by(error: BaseException, file: str) -> str:
    """Return what an exception says, and the line of a file where it was raised, or from where it came."""
    try:
        text = _text_of(error)
    except Exception:  # noqa: BLE001 - an exception may fail even to say what it is
        text = "it cannot be shown"
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    place = "" if line is None else f" (line {line})"
    return f"{_name_of(error)}: {text[:MESSAGE_CHARACTERS_MAX]}{place}"


def _text_of(error: BaseException) -> str:
    match error:
        case HeadraceError():
            return error.what
        case SyntaxError():
            return str(error.msg)  # as text it would name the file and the line once more
        case _:
            return str(error)


def _name_of(error: BaseException) -> str:
    return type(error).__name__[:ERROR_CHARACTERS_MAX]
