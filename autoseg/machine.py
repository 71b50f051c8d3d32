"""What this process may use of the machine: CPUs, memory, BLAS threads."""

import contextlib
import ctypes
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TextIO, TypeVar

from autoseg.errors import SettingError

log = logging.getLogger(__name__)
NO_LIMIT = 2**60  # cgroup v1 writes a huge number for "none"
SEEN_WITHIN_SECONDS = 10.0  # what one host makes, another can take seconds to see over a network
T = TypeVar("T")
CGROUPS = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """CPUs this process may use: its affinity, or the cgroup's quota where that is less; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroup_folders("cpu"):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and words[0].isdigit():  # "max" and -1 stand for no quota
            allowed = min(allowed, -(-int(words[0]) // int(words[1])))
    return max(1, allowed)


def available_memory_bytes() -> int:
    """Memory that can be taken without swapping: what the system has, or the cgroup where that is less."""
    free = _system_memory_bytes()
    for folder in _cgroup_folders("memory"):
        limit = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
        if limit and used and limit[0].isdigit() and int(limit[0]) < NO_LIMIT:
            # File pages that nobody has touched lately are counted as used but given back on demand.
            statistics = dict(zip((words := _words(folder / "memory.stat"))[::2], words[1::2], strict=False))
            cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", "0")))
            free = min(free, int(limit[0]) - int(used[0]) + cached)
    return max(0, free)


def _system_memory_bytes() -> int:
    words = _words(Path("/proc/meminfo"))
    if "MemAvailable:" in words:
        return int(words[words.index("MemAvailable:") + 1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return NO_LIMIT


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """The folders whose limits hold for this process: its own cgroup's and those above it, v1 and v2."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = CGROUPS / controller if controllers else CGROUPS
            # In a container the path may be the host's, which is not mounted: then only the root is found.
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder == root or root in folder.parents)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def memory_budget_bytes() -> int:
    """What cases may take together: four fifths of the memory at hand, because what they need is an estimate."""
    return int(0.8 * available_memory_bytes())


@cache
def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16; elsewhere than on Linux that is not known."""
    words = set(_words(Path("/proc/cpuinfo")))
    return not words.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's


@contextlib.contextmanager
def locked(lock: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock, which ends with this process, however it ends.

    Parameters
    ----------
    lock : Path
        A file that is there while the lock is held, or until the next holder after one that was killed.
    wait : bool
        Wait for another holder to end.

    Yields
    ------
    bool
        Whether it is held: False where the system or the file system knows no locks, or the folder can't be written.

    Raises
    ------
    BlockingIOError
        Another process holds it, and `wait` is False.
    """
    try:
        file = _take(lock, wait=wait)
    except BlockingIOError:
        raise
    except (ImportError, OSError) as error:
        log.debug("no lock at %s: %s", lock, error)
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        file.close()


def _take(lock: Path, *, wait: bool) -> TextIO:
    """The lock's open file, locked."""
    import fcntl

    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = lock.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Its last holder has removed the file that was opened: then others lock the next one by this name.
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


@contextlib.contextmanager
def alone(lock: Path, otherwise: str) -> Iterator[None]:
    """Let no other process do the same; see `locked`. A folder made for the lock alone is removed again.

    Parameters
    ----------
    lock : Path
    otherwise : str
        What the error says.

    Raises
    ------
    SettingError
        Another process holds the lock.
    """
    made = not lock.parent.exists()
    with contextlib.ExitStack() as held:
        if made:
            held.callback(_remove_if_empty, lock.parent)
        try:
            known = held.enter_context(locked(lock, wait=False))
        except BlockingIOError as error:
            raise SettingError(otherwise, where=str(lock), hint="wait for it to end, or end it") from error
        if not known:
            log.warning("no lock can be held at %s: let no other process do the same", lock)
        yield


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def seen_soon(look: Callable[[], T | None]) -> T | None:
    """What `look` finds of what another host made; None if it does not turn up.

    Notes
    -----
    A network file system may take seconds to show what was written elsewhere.
    """
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while (found := look()) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def use_one_blas_thread() -> None:
    """Keep numpy's and scipy's OpenBLAS to one thread, from now on, in this process.

    Notes
    -----
    Cases already fill the CPUs, and OpenBLAS's threads wait for each other by spinning: two of them took 0.5 s for
    the export of a 271x100x250 grid of 6 classes on two idle CPUs, like a single one, but 12 s when another
    process was busy.
    """
    with contextlib.suppress(OSError):
        libraries = set(re.findall(r"/\S*openblas\S*", Path("/proc/self/maps").read_text()))
        for library in libraries:
            for name in (
                "scipy_openblas_set_num_threads64_",
                "scipy_openblas_set_num_threads",
                "openblas_set_num_threads",
            ):
                function = getattr(ctypes.CDLL(library), name, None)
                if function is not None:
                    function(ctypes.c_int(1))
                    break
