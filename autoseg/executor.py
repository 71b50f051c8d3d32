"""How cases run, here or in workers, and what happens when one of them fails: cases -> results in order."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_process
from types import FrameType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from autoseg.errors import OUT_OF_MEMORY, AutosegError, is_out_of_memory
from autoseg.machine import use_one_blas_thread

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# What nearly every case needs. The fork server loads it once, and each worker starts with it in place.
PRELOAD = ("numpy", "SimpleITK", "autoseg.images.io")


class SerialExecutor(Executor):
    """Runs each call at once, in this process."""

    jobs = 1

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:  # noqa: ANN401
        """Call `fn`; the future returned is done."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class CasePool(ProcessPoolExecutor):
    """Worker processes that start clean, and do not outlive this process.

    Parameters
    ----------
    jobs : int
        Number of workers.

    Notes
    -----
    Workers come from a fork server (started fresh, so a parent with torch's threads is safe) where there is one,
    else by spawning.
    """

    def __init__(self, jobs: int) -> None:
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            context.set_forkserver_preload(list(PRELOAD))
        super().__init__(jobs, mp_context=context, initializer=_start_worker)
        self.jobs = jobs

    def deaths(self) -> list[str]:
        """How workers ended that did not end by themselves, as far as the system still tells."""
        processes = list((getattr(self, "_processes", None) or {}).values())
        # The pool's own thread collects the exit codes; asked at the same time, one of two readers would get none.
        self.shutdown(wait=True)
        # It ends the survivors with SIGTERM; those are not the cause.
        codes = [process.exitcode for process in processes]
        return [_ending(code) for code in codes if code not in (None, 0, -signal.SIGTERM)]


def _ending(code: int) -> str:
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


@contextmanager
def case_executor(jobs: int) -> Iterator[Executor]:
    """Something to run cases with: this process for one job, else as many worker processes.

    Parameters
    ----------
    jobs : int
        At least 1.

    Yields
    ------
    concurrent.futures.Executor
        For `run_cases`.

    Raises
    ------
    ValueError
        `jobs` is below 1.

    Notes
    -----
    A script that calls this with several jobs needs Python's usual ``if __name__ == "__main__":``, because workers
    import the script. BLAS is kept to one thread, in this process too when it runs the cases itself.
    """
    if jobs < 1:
        message = f"{jobs} jobs"
        raise ValueError(message)
    executor: Executor
    if jobs == 1:
        use_one_blas_thread()
        executor = SerialExecutor()
    else:
        executor = CasePool(jobs)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """What a worker does first."""
    # Ctrl-C reaches every process of the terminal: the case in hand ends and cleans up; the parent does the talking.
    signal.signal(signal.SIGINT, _leave)
    # Workers wait for work on a pipe that they themselves keep open, so a killed parent would go unnoticed.
    threading.Thread(target=follow_parent, daemon=True).start()
    use_one_blas_thread()


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(130)


def follow_parent() -> None:
    """Wait for the parent process to end, then end this one; returns at once where there is no parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_process([parent.sentinel])
        os._exit(1)


def run_cases(
    executor: Executor,
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    name_of: Callable[[T], str],
    progress: str,
    keeps: bool = False,
) -> list[R]:
    """Call a function for each case; the first failure ends it all.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        One of `case_executor`'s, or any other, a cluster's for instance.
    function : callable
        Of one item; top-level, so that it can be sent to another process.
    items : iterable
        One for each case.
    name_of : callable
        The case's name, for errors.
    progress : str
        What the bar on a terminal, or else the log, calls this work.
    keeps : bool, optional
        Whether the function leaves each case's work on disk, for the error when a worker dies.

    Returns
    -------
    list
        Results in the order of the items.

    Raises
    ------
    AutosegError
        As raised for a case; or naming the case for which something unforeseen was raised; or naming the cases in
        hand when a worker process died. Cases not yet begun are left out.
    """
    waiting = list(enumerate(items))
    total = len(waiting)
    names = [name_of(item) for _, item in waiting]
    waiting.reverse()
    # Handing out one case for each worker keeps the list of cases in hand exact, and nothing needs calling back.
    window = getattr(executor, "jobs", total)
    running: dict[Future[R], int] = {}
    results: dict[int, R] = {}
    report = _Progress(progress, total)
    try:
        while waiting or running:
            while waiting and len(running) < window:
                index, item = waiting.pop()
                try:
                    running[executor.submit(function, item)] = index
                except BrokenProcessPool as error:
                    raise _worker_died(executor, [names[i] for i in running.values()], keeps) from error
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                problem = future.exception()
                if isinstance(problem, BrokenProcessPool):
                    raise _worker_died(executor, [names[i] for i in running.values()], keeps) from problem
                if problem is not None:
                    raise _failure(problem, names[running[future]])
                results[running.pop(future)] = future.result()
                report.step()
    finally:
        report.close()
        for future in running:
            future.cancel()
    return [results[index] for index in range(total)]


def _failure(error: BaseException, name: str) -> BaseException:
    """What is raised for a case that failed."""
    if isinstance(error, AutosegError) or not isinstance(error, Exception):
        return error
    hint = OUT_OF_MEMORY if is_out_of_memory(error) else "run again with --debug for the traceback"
    failure = AutosegError(
        "a case failed", where=f"case {name}", found=f"{type(error).__name__}: {error}".rstrip(": "), hint=hint
    )
    failure.__cause__ = error
    return failure


def _worker_died(executor: Executor, in_hand: Sequence[str], keeps: bool) -> AutosegError:
    deaths = executor.deaths() if isinstance(executor, CasePool) else []
    return AutosegError(
        "a worker process died",
        where=f"{'case' if len(in_hand) == 1 else 'one of the cases'} {', '.join(in_hand)}",
        found=", ".join(sorted(set(deaths))) or "no word from it",
        hint=f"{'the same command goes on from the cases done; ' if keeps else ''}"
        "if the system ran out of memory, use fewer --jobs",
    )


class _Progress:
    """A bar on a terminal; elsewhere a line in the log for each tenth."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=title, unit="case", file=sys.stderr) if on_terminal and total else None

    def step(self) -> None:
        """One case more is done."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif self.done * 10 // self.total > (self.done - 1) * 10 // self.total:
            log.info("%s: %d of %d cases", self.title, self.done, self.total)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
