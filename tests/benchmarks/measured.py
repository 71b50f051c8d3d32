"""A command run to its end: seconds, and peak memory of all its processes together."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.1
LEAST_PAUSE = 50  # a pause is at least so many times as long as a look


@dataclass(frozen=True)
class Ran:
    """How a command went.

    Attributes
    ----------
    seconds : float
        Wall time.
    peak_bytes : int
        Largest sum of the proportional set sizes (a page shared by n processes counts 1/n for each) over all
        processes of the command's session, sampled up to ten times a second; Linux only, else 0.
    out : str
        What it printed.
    """

    seconds: float
    peak_bytes: int
    out: str


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ran:
    """Run a command; RuntimeError with the end of its stderr when it fails."""
    start = time.perf_counter()
    # Some programs' workers outlive them: they are ended with the whole process group.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    peaks = [0]
    ended = threading.Event()
    sampler = threading.Thread(target=_sample, args=(process.pid, peaks, ended))
    sampler.start()
    try:
        out, err = process.communicate()
        seconds = time.perf_counter() - start
    finally:
        ended.set()
        sampler.join()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        message = f"{' '.join(command)} ended with {process.returncode}:\n{err[-3000:]}"
        raise RuntimeError(message)
    return Ran(seconds, peaks[0], out)


def _sample(session: int, peaks: list[int], ended: threading.Event) -> None:
    pause = SAMPLE_S
    while not ended.wait(pause):
        start = time.perf_counter()
        peaks[0] = max(peaks[0], sum(_shares_bytes(session)))
        # Of processes that hold gigabytes the kernel walks many pages: that must not slow what is timed.
        pause = max(SAMPLE_S, LEAST_PAUSE * (time.perf_counter() - start))


def _shares_bytes(session: int) -> list[int]:
    """Proportional set size of each process of a session, in bytes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # The name of the program, in brackets, may hold spaces.
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            lines = (folder / "smaps_rollup").read_text().splitlines()
            found += [1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return found
