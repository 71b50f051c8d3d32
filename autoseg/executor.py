"""How cases run, here, in workers or on a cluster, and what happens when one fails: cases -> results in order."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from autoseg.cluster import cluster_executor
from autoseg.errors import OUT_OF_MEMORY, AutosegError, is_out_of_memory
from autoseg.machine import memory_budget_bytes, use_one_blas_thread
from autoseg.pool import WORKER_BYTES, CasePool, WorkerDiedError

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
LOOK_AGAIN_SECONDS = 1.0  # a cluster can get new workers while every case in hand takes its time


@dataclass(frozen=True, slots=True)
class Memory(Generic[T]):
    """How much memory cases take, and how much there is for them.

    Attributes
    ----------
    bytes_of : callable
        Peak memory of one item's case in bytes; asked in this process, shortly before the case begins.
    budget_bytes : int
        What all cases at work may take together, the workers themselves included.
    """

    bytes_of: Callable[[T], int]
    budget_bytes: int


def memory_at_hand(bytes_of: Callable[[T], int]) -> Memory[T]:
    """Cases of such a size, within what this process may use of the machine."""
    return Memory(bytes_of, memory_budget_bytes())


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


@contextmanager
def case_executor(jobs: int, *, scheduler: str | None = None, sees: Path | None = None) -> Iterator[Executor]:
    """Something to run cases with: this process for one job, else as many worker processes, or a cluster.

    Parameters
    ----------
    jobs : int
        At least 1; without meaning for a cluster.
    scheduler : str, optional
        Address of a dask scheduler, whose workers then run the cases.
    sees : Path, optional
        A folder that each worker of the cluster must find.

    Yields
    ------
    concurrent.futures.Executor
        For `run_cases`.

    Raises
    ------
    ValueError
        `jobs` is below 1.
    SettingError
        The cluster can't be reached.

    Notes
    -----
    A script that calls this with several jobs needs Python's usual ``if __name__ == "__main__":``, because workers
    import the script. BLAS is kept to one thread, in this process too when it runs the cases itself.
    """
    if jobs < 1:
        message = f"{jobs} jobs"
        raise ValueError(message)
    if scheduler is not None:
        with cluster_executor(scheduler, sees) as cluster:
            yield cluster
        return
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


def run_cases(
    executor: Executor,
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    name_of: Callable[[T], str],
    progress: str,
    keeps: bool = False,
    memory: Memory[T] | None = None,
    done: Callable[[T, R], None] | None = None,
) -> list[R]:
    """Call a function for each case; the first failure ends it all.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        One of `case_executor`'s, or any other.
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
    memory : Memory, optional
        Cases begin only while they fit in it together; a case that does not fit at all is run alone. None: as many
        as there are workers.
    done : callable, optional
        Called in this process with each item and its result, as they come.

    Returns
    -------
    list
        Results in the order of the items.

    Raises
    ------
    AutosegError
        As raised for a case; or naming the case for which something unforeseen was raised, or whose worker died.
        Cases not yet begun are left out.
    """
    cases = list(items)
    waiting = _Waiting(cases, name_of, memory)
    running: dict[Future[R], int] = {}
    results: dict[int, R] = {}
    report = Progress(progress, len(cases))
    try:
        while waiting or running:
            # One case for each worker: then it is known which are in hand, and nothing needs calling back.
            while len(running) < getattr(executor, "jobs", len(cases)):
                index = waiting.take(running.values())
                if index is None:
                    break
                running[executor.submit(function, cases[index])] = index
            finished, _ = wait(running, LOOK_AGAIN_SECONDS, FIRST_COMPLETED)
            for future in finished:
                index = running.pop(future)
                results[index] = _result(executor, future, name_of(cases[index]), keeps)
                if done is not None:
                    done(cases[index], results[index])
                report.step()
    finally:
        report.close()
        for future in running:
            future.cancel()
    return [results[index] for index in range(len(cases))]


class _Waiting(Generic[T]):
    """Cases that have not begun, and which of them may."""

    def __init__(self, cases: Sequence[T], name_of: Callable[[T], str], memory: Memory[T] | None) -> None:
        self.cases, self.name_of, self.memory = cases, name_of, memory
        self.left = dict.fromkeys(range(len(cases)))
        self.known: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self.left)

    def take(self, running: Iterable[int]) -> int | None:
        """The first case that fits beside those at work, or None; with none at work, whichever comes first."""
        at_work = list(running)
        index = next((index for index in self.left if self._fits(index, at_work)), None)
        if index is not None:
            del self.left[index]
        return index

    def _fits(self, index: int, at_work: list[int]) -> bool:
        if self.memory is None:
            return True
        budget = self.memory.budget_bytes
        if self._needs(index) > budget and not at_work:
            log.warning(
                "case %s may take %.1f GB, and %.1f GB can be used: it runs alone",
                self.name_of(self.cases[index]), self._needs(index) / 1e9, budget / 1e9,
            )  # fmt: skip
            return True
        return sum(self._needs(other) for other in (index, *at_work)) <= budget

    def _needs(self, index: int) -> int:
        if index not in self.known and self.memory is not None:
            self.known[index] = WORKER_BYTES + self.memory.bytes_of(self.cases[index])
        return self.known[index]


def _result(executor: Executor, future: Future[R], name: str, keeps: bool) -> R:
    """What a case gave.

    Raises
    ------
    AutosegError
        It failed, or its worker died.
    """
    goes_on = "the same command goes on from the cases done; " if keeps else ""
    if future.cancelled():
        raise AutosegError(
            "the connection to the cluster's scheduler was lost",
            where=f"case {name}",
            hint=f"{goes_on}see the scheduler's log for why it ended",
        )
    problem = future.exception()
    if problem is None:
        return future.result()
    if isinstance(problem, WorkerDiedError):
        if isinstance(executor, CasePool):
            executor.abandon()
        raise AutosegError(
            "a worker process died",
            where=f"case {name}",
            found=str(problem),
            hint=f"{goes_on}if the system ran out of memory, use fewer --jobs",
        ) from problem
    if type(problem).__name__ == "KilledWorker":  # dask's, which need not be there
        raise AutosegError(
            "workers of the cluster died again and again",
            where=f"case {name}",
            found=str(problem).split(". ")[0],
            hint=f"{goes_on}see the workers' logs; if they ran out of memory, give them more or fewer threads",
        ) from problem
    raise case_failure(problem, name)


def case_failure(error: BaseException, name: str) -> BaseException:
    """What is raised for a case that failed."""
    if isinstance(error, AutosegError) or not isinstance(error, Exception):
        return error
    hint = OUT_OF_MEMORY if is_out_of_memory(error) else "run again with --debug for the traceback"
    failure = AutosegError(
        "a case failed", where=f"case {name}", found=f"{type(error).__name__}: {error}".rstrip(": "), hint=hint
    )
    failure.__cause__ = error
    return failure


class Progress:
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
