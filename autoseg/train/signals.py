"""Ctrl-C and SIGTERM as a question asked between iterations."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from autoseg.errors import Terminated

log = logging.getLogger(__name__)


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Turn the first interrupt into a flag; a second one ends at once.

    Yields
    ------
    callable
        Tells whether an interrupt came.

    Raises
    ------
    Terminated
        In place of the KeyboardInterrupt that the block ends with, where the interrupt was a SIGTERM.
    """
    came: list[int] = []
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
        came.append(number)
        log.info("stopping after this iteration; interrupt again to stop at once")
        for each, handler in earlier.items():
            signal.signal(each, handler)

    for number in earlier:
        signal.signal(number, ask)
    try:
        yield lambda: bool(came)
    except KeyboardInterrupt as interrupt:
        if came == [signal.SIGTERM]:
            raise Terminated from interrupt
        raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
