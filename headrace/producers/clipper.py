import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from headrace.producers.clip import CLIP_S, FrameRing
from headrace.producers.delivery import Delivery
from headrace.producers.video_frames import VideoFrame
from headrace.runtime.errors import HeadraceError

CLIPS_WAITING_MAX = 4  # that are being cut; with more, the frames wait, so memory stays bounded
_CLIP_US = round(CLIP_S * 1_000_000)

# Cuts a clip about something from shots and publishes it.
Perform: TypeAlias = Callable[[Sequence[VideoFrame], str | None], Delivery]


@dataclass(frozen=True, slots=True)
class _Wish:
    """A clip that was asked for, around a moment; `delivery` becomes what the clip's own delivery becomes."""

    at_us: int
    about: str | None
    delivery: Delivery


class Clipper:
    """Sees every shot and performs each wish once the second half of its clip has been seen.

    Clips are cut in one thread of its own, so that a live camera does not miss frames meanwhile.
    """

    def __init__(self, perform: Perform) -> None:
        """Begin with nothing seen."""
        self._perform = perform
        self._ring = FrameRing()
        self._wishes: list[_Wish] = []
        self._last_us: int | None = None
        self._finished = False
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(CLIPS_WAITING_MAX)
        self._cutter = ThreadPoolExecutor(1, "clips")

    def see(self, shot: VideoFrame) -> None:
        """Keep a shot for the clips that it may be part of, and perform the wishes that are due."""
        with self._lock:
            self._ring.add(shot)
            self._last_us = shot.at_us
            due = [wish for wish in self._wishes if wish.at_us + _CLIP_US // 2 <= shot.at_us]
            self._wishes = [wish for wish in self._wishes if wish not in due]
        self._hand_over(due)

    def wish(self, about: str | None) -> Delivery:
        """Ask for a clip around the newest shot; may be called from any thread.

        Once there will be no more shots, it is the last CLIP_S seconds, and this blocks until they are cut.

        Raises:
            HeadraceError: no_frames_yet.
        """
        with self._lock:
            if self._last_us is None:
                raise HeadraceError(
                    "no_frames_yet", "there is no frame to cut a clip from", hint="run the camera first"
                )
            wish = _Wish(self._last_us, about, Delivery())
            wish.delivery.set_running_or_notify_cancel()
            if not self._finished:
                self._wishes.append(wish)
                return wish.delivery
            shots = self._ring.between(self._last_us - _CLIP_US, self._last_us)
        self._fulfil(wish, shots)
        return wish.delivery

    def finish(self) -> None:
        """Perform what is still wished for with what there is, and wait until it is published; may be repeated."""
        with self._lock:
            self._finished = True
            due, self._wishes = self._wishes, []
        self._hand_over(due)
        self._cutter.shutdown()

    def _hand_over(self, due: Sequence[_Wish]) -> None:
        for wish in due:
            shots = self._ring.between(wish.at_us - _CLIP_US // 2, wish.at_us + _CLIP_US // 2)
            self._room.acquire()
            self._cutter.submit(self._fulfil, wish, shots).add_done_callback(lambda _: self._room.release())

    def _fulfil(self, wish: _Wish, shots: Sequence[VideoFrame]) -> None:
        try:
            made = self._perform(shots, wish.about)
        except Exception as error:  # noqa: BLE001 - whoever wished for the clip is told, whatever it was
            wish.delivery.set_exception(error)
        else:
            made.add_done_callback(lambda done: _follow(wish.delivery, done))


def _follow(wished: Delivery, made: Delivery) -> None:
    if error := made.exception():
        wished.set_exception(error)
    else:
        wished.set_result(made.result())
