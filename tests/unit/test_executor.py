"""Running cases: order, failures that name the case, workers that die, parents that are killed."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Dataset
from autoseg.errors import ArtifactError, AutosegError
from autoseg.executor import SerialExecutor, case_executor, run_cases

# Workers import what they call, so it comes from a library and not from this file.
read_dataset = partial(read, kind=Dataset)


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
def test_a_killed_worker_is_reported_within_seconds(keeps):
    start = time.monotonic()
    with pytest.raises(AutosegError) as caught, case_executor(2) as pool:
        run_cases(pool, signal.raise_signal, [0, signal.SIGKILL], name_of=str, progress="test", keeps=keeps)
    assert time.monotonic() - start < 30
    assert caught.value.what == "a worker process died"
    assert str(int(signal.SIGKILL)) in caught.value.where
    assert caught.value.found == "signal SIGKILL"
    assert ("goes on" in caught.value.hint) == keeps


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
