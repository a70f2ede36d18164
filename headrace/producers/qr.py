from collections.abc import Callable, Iterable

import cv2

from headrace.producers.video_frames import Pixels

CODE_GONE_S = 2.0


def find_codes(pixels: Pixels) -> list[str]:
    """Return the distinct texts of the QR codes in BGR pixels, in the order of detection."""
    return list(dict.fromkeys(text for text in _texts(pixels) if text))


class Appearances:
    """Tracks the codes in view, so that a code that stays in view is reported once.

    A code that was out of view for more than `gone_s` seconds is new again, and is forgotten after that time.
    """

    def __init__(self, gone_s: float = CODE_GONE_S) -> None:
        """Begin with nothing in view."""
        self._gone_us = round(gone_s * 1_000_000)
        self._seen_at_us: dict[str, int] = {}

    def new(self, codes: Iterable[str], at_us: int) -> list[str]:
        """Return the codes in view now that were not in view before; times never decrease."""
        since_us = at_us - self._gone_us
        in_view = {code: seen for code, seen in self._seen_at_us.items() if seen >= since_us}
        now = list(codes)
        self._seen_at_us = in_view | dict.fromkeys(now, at_us)
        return [code for code in now if code not in in_view]


def _with_opencv(pixels: Pixels) -> list[str]:
    _, texts, _, _ = cv2.QRCodeDetector().detectAndDecodeMulti(pixels)
    return list(texts)


_texts: Callable[[Pixels], list[str]] = _with_opencv
try:
    import zxingcpp
except ImportError:
    pass  # there is no wheel for some machines; OpenCV finds fewer codes but is always installed
else:
    _QR = zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)

    def _with_zxing(pixels: Pixels) -> list[str]:
        return [barcode.text for barcode in zxingcpp.read_barcodes(pixels, formats=_QR)]

    _texts = _with_zxing
