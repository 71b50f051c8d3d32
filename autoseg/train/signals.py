"""Ctrl-C and SIGTERM as a question asked between iterations."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from autoseg.errors import Terminated

log = logging.getLogger(__name__)
# Supervisors that stop a whole group of processes reach one both directly and by way of its parent.
SAME_REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Request:
    """The signal that came first, and when by the monotonic clock."""

    number: int
    seconds: float

    def is_repeated_by(self, number: int) -> bool:
        """Whether another signal is of the same request to stop."""
        soon = time.monotonic() - self.seconds <= SAME_REQUEST_SECONDS
        return number == self.number == signal.SIGTERM and soon


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Turn the first interrupt into a flag; a later one ends at once.

    Yields
    ------
    callable
        Tells whether an interrupt came.

    Raises
    ------
    Terminated
        In place of the KeyboardInterrupt that the block ends with, where the interrupt was a SIGTERM.
    """
    came: list[_Request] = []
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may catch signals; elsewhere nobody can ask.
        yield lambda: False
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    owner = os.getpid()

    def ask(number: int, _frame: FrameType | None) -> None:
        # Loader workers forked from here inherit this; stopping is their parent's business.
        if os.getpid() != owner:
            return
        if not came:
            came.append(_Request(number, time.monotonic()))
            log.info("stopping after this iteration; interrupt again to stop at once")
        elif not came[0].is_repeated_by(number):
            _handle(earlier)
            signal.raise_signal(number)

    _handle(dict.fromkeys(earlier, ask))
    try:
        yield lambda: bool(came)
    except KeyboardInterrupt as interrupt:
        if came and came[0].number == signal.SIGTERM:
            raise Terminated from interrupt
        raise
    finally:
        _handle(earlier)


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
