"""Folds side by side: a process for each, on whichever device is free. One that dies fails its own fold alone."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from autoseg.train.signals import stop_requested

log = logging.getLogger(__name__)
# The usual command, which also stops when this process is gone, however it ended.
PROGRAM = (
    "from autoseg.train.side_by_side import follow; follow(); from autoseg.cli import main; main(prog_name='autoseg')"
)
LOOK_SECONDS = 0.2
LEAVE_SECONDS = 5.0
KEPT_LINES = 20


@dataclass(slots=True)
class _Fold:
    """A fold at work."""

    number: int
    slot: int
    process: subprocess.Popen[str]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        """Show what it says, behind its number."""
        for line in self.process.stderr or ():
            self.lines.append(line.rstrip("\n"))
            log.info("fold %d | %s", self.number, self.lines[-1])

    def reason(self) -> str | None:
        """Why it failed; None where it did not."""
        code = self.process.returncode
        if code == 0:
            return None
        if code < 0:
            with suppress(ValueError):
                return f"ended by signal {signal.Signals(-code).name}"
            return f"ended by signal {-code}"
        said = list(self.lines)
        begins = [n for n, line in enumerate(said) if line.startswith("Error: ")]
        if begins:
            return "\n".join((said[begins[-1]].removeprefix("Error: "), *said[begins[-1] + 1 :]))
        return f"exit code {code}" + (f": {said[-1]}" if said else "")

    def end(self) -> None:
        """End it, where it has not ended, and close its pipes."""
        self.process.terminate()
        try:
            self.process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # Its own workers may hold the other end for a moment longer.
        self.reader.join(LEAVE_SECONDS)
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None and not self.reader.is_alive():
                pipe.close()


def run_folds(
    folds: Sequence[int], devices: Sequence[str], arguments_of: Callable[[int, str], Sequence[str]]
) -> dict[int, str]:
    """Train folds, as many at a time as there are devices.

    Parameters
    ----------
    folds : sequence of int
    devices : sequence of str
        One that is named twice takes two at a time. A device on which a fold failed gets another one only when none
        is left on which none did.
    arguments_of : callable
        The command's arguments for a fold on a device.

    Returns
    -------
    dict of int to str
        Why they failed, by fold.

    Raises
    ------
    KeyboardInterrupt
        The user asked to stop; so did then all folds.
    """
    waiting, running = deque(folds), list[_Fold]()
    failures: dict[int, str] = {}
    doubtful: set[int] = set()
    with stop_requested() as stopped:
        try:
            while (waiting or running) and not stopped():
                busy = {fold.slot for fold in running}
                good = set(range(len(devices))) - doubtful or set(range(len(devices)))
                for slot in sorted(good - busy)[: len(waiting)]:
                    number = waiting.popleft()
                    log.info("fold %d begins on %s", number, devices[slot])
                    running.append(_start(number, slot, devices, arguments_of(number, devices[slot])))
                time.sleep(LOOK_SECONDS)
                for fold in [fold for fold in running if fold.process.poll() is not None]:
                    running.remove(fold)
                    fold.end()
                    reason = None if stopped() else fold.reason()
                    if reason is not None:
                        log.warning("fold %d failed on %s", fold.number, devices[fold.slot])
                        failures[fold.number] = reason
                        doubtful.add(fold.slot)
            if stopped():
                for fold in running:
                    fold.process.terminate()
                for fold in running:
                    fold.process.wait()
                raise KeyboardInterrupt
        finally:
            for fold in running:
                fold.end()
    return dict(sorted(failures.items()))


def _start(number: int, slot: int, devices: Sequence[str], arguments: Sequence[str]) -> _Fold:
    with _cpus_of(slot, devices):
        process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # the scores, which the caller reads from their file
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C reaches all processes of a terminal: without this a fold would be told twice, and end at once.
            start_new_session=True,
        )
    return _Fold(number, slot, process)


@contextmanager
def _cpus_of(slot: int, devices: Sequence[str]) -> Iterator[None]:
    """Let what is started meanwhile have its share of the CPUs, where several folds train on them.

    Notes
    -----
    Each would use all of them otherwise, and its threads wait for each other by spinning.
    """
    slots = [number for number, device in enumerate(devices) if device == "cpu"]
    if devices[slot] != "cpu" or len(slots) == 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    mine = os.sched_getaffinity(0)
    cpus, place = sorted(mine), slots.index(slot)
    share = cpus[place :: len(slots)] or [cpus[place % len(cpus)]]
    os.sched_setaffinity(0, share)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def follow() -> None:
    """Ask this process to stop when the one that holds the other end of its standard input is gone."""

    def watch() -> None:
        # Not through sys.stdin, whose lock a thread that waits for ever would hold when the process ends.
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
