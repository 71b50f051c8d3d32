"""Running cases: order, failures that name the case, workers that die, parents that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Dataset
from autoseg.errors import ArtifactError, AutosegError
from autoseg.executor import Memory, SerialExecutor, case_executor, run_cases
from autoseg.pool import WORKER_BYTES

# Workers import what they call, so it comes from a library and not from this file.
read_dataset = partial(read, kind=Dataset)
NAMED = {"name_of": str, "progress": "test"}
# Programs for `exec`.
SLEEP = "import time; time.sleep(40)"
SLEEP_BESIDE_A_FILE = """
import pathlib, time
file = pathlib.Path("{}", "file.part")
try:
    file.touch()
    time.sleep(40)
finally:
    file.unlink()
"""
KILL_WHEN_IT_IS_THERE = """
import pathlib, signal, time
while not pathlib.Path("{}", "file.part").exists():
    time.sleep(0.01)
signal.raise_signal(signal.SIGKILL)
"""


def run(jobs, function, items):
    with case_executor(jobs) as pool:
        return run_cases(pool, function, items, name_of=str, progress="test")


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_keep_the_order(jobs):
    assert run(jobs, abs, [-5, 3, -1, 0, 2]) == [5, 3, 1, 0, 2]
    assert run(jobs, abs, []) == []


def test_any_executor_will_do():
    with ThreadPoolExecutor(2) as pool:
        assert run_cases(pool, abs, range(-9, 0), name_of=str, progress="test") == list(range(9, 0, -1))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_names_the_case(jobs):
    with pytest.raises(AutosegError) as caught:
        run(jobs, int, ["1", "two", "3"])
    assert caught.value.where == "case two"
    assert "ValueError: invalid literal" in caught.value.found
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_ours_passes_as_it_is(jobs, tmp_path):
    with pytest.raises(ArtifactError) as caught:
        run(jobs, read_dataset, [tmp_path / "none.json"])
    assert caught.value.where == str(tmp_path / "none.json")


def test_the_first_failure_ends_it():
    seen = []

    def fail_at_two(item):
        seen.append(item)
        return 1 / (item - 2)

    with pytest.raises(AutosegError, match="ZeroDivisionError"):
        run_cases(SerialExecutor(), fail_at_two, range(9), name_of=str, progress="test")
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killed_worker_is_named_with_its_case(keeps, number):
    start = time.monotonic()
    with pytest.raises(AutosegError) as caught, case_executor(3) as pool:
        run_cases(
            pool, exec, [SLEEP, f"import signal; signal.raise_signal({number})", SLEEP + " "], **NAMED, keeps=keeps
        )
    assert time.monotonic() - start < 10  # and not 40
    assert caught.value.what == "a worker process died"
    assert caught.value.where == f"case import signal; signal.raise_signal({number})"
    assert caught.value.found == f"signal {signal.Signals(number).name}"
    assert ("goes on" in caught.value.hint) == keeps


@pytest.mark.parametrize("code", [0, 3])
def test_a_worker_that_leaves_is_named_with_its_case(code):
    with pytest.raises(AutosegError) as caught, case_executor(2) as pool:
        run_cases(pool, os._exit, [code], name_of=lambda _: "a", progress="test")
    assert (caught.value.where, caught.value.found) == ("case a", f"exit code {code}")


def test_workers_leave_no_temporary_files_when_another_died(tmp_path):
    """A worker that is asked to end goes through its `finally`."""
    with pytest.raises(AutosegError, match="died"), case_executor(2) as pool:
        run_cases(pool, exec, [SLEEP_BESIDE_A_FILE.format(tmp_path), KILL_WHEN_IT_IS_THERE.format(tmp_path)], **NAMED)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_sent_names_the_case():
    with pytest.raises(AutosegError, match="a case failed") as caught:
        run(2, eval, ["1", "lambda: 1"])
    assert caught.value.where == "case lambda: 1"
    assert "can't be sent" in caught.value.found


def test_a_failure_in_a_worker_keeps_its_traceback():
    with pytest.raises(AutosegError) as caught:
        run(2, read_dataset, [3])
    assert "in read" in "".join(caught.value.__cause__.__notes__)


class Scale:
    """Cases that weigh something, and the most that was ever on at once."""

    def __init__(self):
        self.lock, self.now, self.most, self.together = threading.Lock(), [], 0, 0

    def weigh(self, item):
        with self.lock:
            self.now.append(item)
            self.most, self.together = max(self.most, sum(self.now)), max(self.together, len(self.now))
        time.sleep(0.02)
        with self.lock:
            self.now.remove(item)
        return item


@pytest.mark.parametrize("seed", range(3))
def test_cases_start_only_while_they_fit_together(seed):
    items = [int(n) for n in np.random.default_rng(seed).integers(1, 60, 40)]
    scale = Scale()
    memory = Memory(lambda item: item * 10**9 - WORKER_BYTES, 100 * 10**9)
    with ThreadPoolExecutor(8) as pool:
        assert run_cases(pool, scale.weigh, items, **NAMED, memory=memory) == items
    assert 60 < scale.most <= 100
    assert scale.together > 2


def test_a_case_that_does_not_fit_runs_alone(caplog):
    scale = Scale()
    memory = Memory(lambda item: item * 10**9, 50 * 10**9)
    with ThreadPoolExecutor(8) as pool:
        run_cases(pool, scale.weigh, [10, 80, 10, 10], **NAMED, memory=memory)
    assert scale.most == 80
    assert "case 80 may take 80.1 GB, and 50.0 GB can be used: it runs alone" in caplog.text


def test_results_are_handed_on_as_they_come():
    seen = []
    with case_executor(2) as pool:
        run_cases(pool, abs, [-2, -1], **NAMED, done=lambda item, result: seen.append((item, result)))
    assert sorted(seen) == [(-2, 2), (-1, 1)]


def test_ctrl_c_ends_a_worker_quietly(capfd):
    with pytest.raises(SystemExit):
        run(2, signal.raise_signal, [signal.SIGINT])
    assert capfd.readouterr().err == ""


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from autoseg.executor import case_executor\n"
        "if __name__ == '__main__':\n"
        "    with case_executor(2) as pool:\n"
        "        futures = [pool.submit(time.sleep, 0.3), pool.submit(os.getpid)]\n"
        "        print(futures[1].result(), flush=True)\n"
        "        pool.submit(time.sleep, 60)\n"
        "        time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    with parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    """Whether a process is there and not just waiting to be reaped; it may end while it is being asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_jobs_are_refused():
    with pytest.raises(ValueError, match="0 jobs"):
        run(0, abs, [])
