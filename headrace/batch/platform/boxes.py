"""Boxes, as the platform writes them: the text of a Python list of tuples, `[(0.1,0.1,0.9,0.9,0.5)]`.

The text comes from outside, so it is matched and never evaluated.
"""

import re
from dataclasses import dataclass

TEXT_CHARACTERS_MAX = 4096  # the platform allows 5 boxes of 3 decimals, about 150 characters
BOXES_MAX = 32  # of one text: the time that clusters take grows with the square of their number

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_TUPLE = re.compile(r"\(([^()\[\]]*)\)")
_LIST = re.compile(r"\[\s*(?:\([^()\[\]]*\)\s*(?:,\s*\([^()\[\]]*\)\s*)*(?:,\s*)?)?\]")
_FIVE = re.compile(
    rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*(?:,\s*)?"
)


@dataclass(frozen=True, slots=True)
class Box:
    """One prediction; corners are shares of the picture's width and height, 0 to 1, as is the confidence."""

    x1: float
    y1: float
    x2: float
    y2: float
    confidence: float

    @property
    def xyxyn(self) -> list[float]:
        """Its corners, as the annotation API names them."""
        return [self.x1, self.y1, self.x2, self.y2]


@dataclass(frozen=True, slots=True)
class Parsed:
    """The good boxes of a text, in order, and how many were dropped."""

    boxes: tuple[Box, ...] = ()
    dropped: int = 0


def parse_boxes(text: str | None) -> Parsed:
    """Parse a list of boxes, or one box alone.

    A box that the annotation API would refuse (corners outside 0 to 1 or in the wrong order, a confidence outside 0 to
    1, other than five numbers) is dropped and counted, and so is what comes after BOXES_MAX; text that is no such list
    counts as one that was dropped.
    """
    if text is None or not (stripped := text.strip()):
        return Parsed()
    if len(stripped) > TEXT_CHARACTERS_MAX or not (_LIST.fullmatch(stripped) or _TUPLE.fullmatch(stripped)):
        return Parsed(dropped=1)
    found = [_box(inner) for inner in _TUPLE.findall(stripped)]
    boxes = tuple(box for box in found if box is not None)[:BOXES_MAX]
    return Parsed(boxes, len(found) - len(boxes))


def _box(inner: str) -> Box | None:
    numbers = _FIVE.fullmatch(inner)
    return None if numbers is None else good_box(*map(float, numbers.groups()))


def good_box(x1: float, y1: float, x2: float, y2: float, confidence: float) -> Box | None:
    """Return the box if the annotation API takes it; numbers that are none fail every comparison."""
    if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and 0 <= confidence <= 1:
        return Box(x1, y1, x2, y2, confidence)
    return None
