"""Worker processes: calls -> results; a worker that dies fails the one call it had, and says how it ended."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

from autoseg.machine import use_one_blas_thread

R = TypeVar("R")
# What nearly every case needs. The fork server loads it once, and each worker starts with it in place.
PRELOAD = ("numpy", "SimpleITK", "autoseg.images.io")
WORKER_BYTES = 110 * 2**20  # 91 MB after its start, counting what it shares with others, and 16 more on the first case
LEAVE_SECONDS = 2.0


class WorkerDiedError(Exception):
    """A worker ended before its call did; the argument tells its signal or exit code."""


class CasePool(Executor):
    """Worker processes that start clean, and do not outlive this process.

    Parameters
    ----------
    jobs : int
        Number of workers, at most; each starts when a call finds none idle.

    Notes
    -----
    Workers come from a fork server (started fresh, so a parent with torch's threads is safe) where there is one,
    else by spawning. Each has a pipe of its own, of which no other process knows: its end is the worker's death,
    even in the middle of a message, and the call that ends with it is the one the worker had.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        methods = multiprocessing.get_all_start_methods()
        self._context: BaseContext = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            self._context.set_forkserver_preload(list(PRELOAD))
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="case")
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        # Starting one process asks all others whether they are alive, and an exit code can be read only once.
        self._children = threading.Lock()

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:  # noqa: ANN401
        """Call `fn` in a worker; the future raises `WorkerDiedError` where that worker dies."""
        return self._threads.submit(self._call, partial(fn, *args, **kwargs))

    def abandon(self) -> None:
        """End all workers, whatever they do."""
        for worker in list(self._all):
            worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + LEAVE_SECONDS
        for worker in list(self._all):
            if not worker.has_ended(max(0.0, deadline - time.monotonic())):
                worker.signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the calls in hand end, then the workers."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        for worker in self._all:
            worker.pipe.close()
        for worker in self._all:
            worker.has_ended(None)
            self._exit_code(worker)

    def _call(self, call: Callable[[], R]) -> R:
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = self._start()
        try:
            result = worker.call(call)
        except WorkerDiedError as error:
            worker.has_ended(None)
            raise WorkerDiedError(_ending(self._exit_code(worker))) from error
        except BaseException:
            self._idle.append(worker)
            raise
        self._idle.append(worker)
        return cast(R, result)

    def _start(self) -> "_Worker":
        with self._children:
            worker = _Worker(self._context)
            self._all.append(worker)
            return worker

    def _exit_code(self, worker: "_Worker") -> int | None:
        with self._children:
            worker.process.join()
            code: int | None = worker.process.exitcode
            return code


class _Worker:
    """One process and the parent's end of its pipe."""

    def __init__(self, context: BaseContext) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,))  # type: ignore[attr-defined]  # of each context
        self.process.start()
        theirs.close()

    def call(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What the call returns or raises there."""
        data = ForkingPickler.dumps(call)
        try:
            self.pipe.send_bytes(data)
            answer = self.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerDiedError from error
        succeeded, outcome = ForkingPickler.loads(answer)
        if not succeeded:
            raise outcome
        return outcome

    def has_ended(self, seconds: float | None) -> bool:
        """Wait for the process's end without asking for its exit code."""
        return bool(wait_for([self.process.sentinel], seconds))

    def signal(self, number: int) -> None:
        """Send a signal to a process that has not ended; on none that came to have its number."""
        if self.process.pid is not None and not self.has_ended(0):
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


def _work(pipe: Connection) -> None:
    """A worker's life: calls come in, answers go out, until the parent closes the pipe."""
    # Ctrl-C reaches every process of the terminal: the case in hand ends and cleans up; the parent does the talking.
    signal.signal(signal.SIGINT, _leave)
    # An end that is asked for leaves no temporary files.
    signal.signal(signal.SIGTERM, _end)
    # A killed parent closes the pipe, which a worker with a case in hand would notice only after the case.
    threading.Thread(target=follow_parent, daemon=True).start()
    use_one_blas_thread()
    try:
        _serve(pipe)
    except _EndedError:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def _serve(pipe: Connection) -> None:
    leaves = False
    with suppress(EOFError, OSError):  # the parent has closed the pipe, or was killed
        while not leaves:
            answer, leaves = _answer(pipe.recv_bytes())
            pipe.send_bytes(answer)


def _answer(data: bytes) -> tuple[memoryview, bool]:
    """Make a call: whether it succeeded and what it returned or raised, packed; and whether the worker is to leave."""
    leaves = False
    try:
        outcome = (True, ForkingPickler.loads(data)())
    except _EndedError:
        raise
    except BaseException as error:
        error.add_note(traceback.format_exc())  # a traceback itself can't be sent
        outcome = (False, error)
        leaves = not isinstance(error, Exception)
    try:
        return ForkingPickler.dumps(outcome), leaves
    except Exception as error:
        text = f"{outcome[1]!r:.200} can't be sent: {error}"
        return ForkingPickler.dumps((False, RuntimeError(text))), leaves


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(130)


class _EndedError(BaseException):
    """Someone asked the worker to end."""


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _EndedError


def follow_parent() -> None:
    """Wait for the parent process to end, then end this one; returns at once where there is no parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
