"""Processes killed while cases are prepared: what was done is kept, and the next start ends as if nothing had been."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from autoseg.artifacts.base import read, write
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.errors import AutosegError
from autoseg.layout import Workspace
from autoseg.preprocess import stage
from autoseg.preprocess.store import load_case

CONFIGURATION = "3d_fullres"
SEED = 20_261_124
# The command without its start-up: 20 of them take as long as one.
SCRIPT = """
import sys
from pathlib import Path
from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.plan import Plan
from autoseg.layout import Workspace
from autoseg.preprocess import stage
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    dataset, plan = read(folder / "dataset.json", Dataset), read(folder / "plan.json", Plan)
    print("begins", flush=True)
    stage.run(dataset, plan, "3d_fullres", Workspace(folder / "w"), jobs=2)
"""


@pytest.fixture(scope="module")
def undisturbed(slow_cases, tmp_path_factory):
    """Arrays of each case, and how long a run takes in seconds, from a run that nothing disturbed."""
    space = Workspace(tmp_path_factory.mktemp("undisturbed") / "w")
    prepare(slow_cases, space)  # the fork server's start is in this one
    start = time.monotonic()
    prepare(slow_cases, Workspace(space.root.with_name("again")))
    return contents(space), time.monotonic() - start


def prepare(slow_cases, space):
    dataset, plan = slow_cases
    return stage.run(dataset, plan, CONFIGURATION, space, jobs=2)


def contents(space):
    """Everything there is of a prepared workspace, by case; nothing else may be there."""
    found, expected = {}, set()
    for file in sorted(space.preprocessed(CONFIGURATION).glob("[!.]*.json")):
        record = read(file, PreprocessedCase)
        files = space.case(CONFIGURATION, record.name)
        expected |= {path.name for path in (files.image, files.label, files.locations, files.record)}
        case = load_case(files, record.arrays_sha256)
        found[record.name] = (record.arrays_sha256, case.image, case.label, case.locations)
    assert {path.name for path in space.preprocessed(CONFIGURATION).iterdir()} == expected
    return found


def assert_same(space, undisturbed):
    found, (expected, _) = contents(space), undisturbed
    assert list(found) == list(expected)
    for name, (sha256, *arrays) in found.items():
        assert sha256 == expected[name][0]
        for one, other in zip(arrays, expected[name][1:], strict=True):
            assert np.array_equal(one, other)


def done_so_far(space):
    """Time of change of each record: a case that is done again gets another."""
    return {path.name: path.stat().st_mtime_ns for path in space.preprocessed(CONFIGURATION).glob("[!.]*.json")}


def children(pid):
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def workers():
    """Those of this process; they come from the fork server, its child."""
    return [worker for server in children(os.getpid()) for worker in children(server)]


def case_in_hand(pid, space):
    """The case whose lock a process holds, as the system knows it."""
    held = {
        line.split()[5].rpartition(":")[2]
        for line in Path("/proc/locks").read_text().splitlines()
        if f" {pid} " in line
    }
    for lock in space.preprocessed(CONFIGURATION).glob(".*.lock"):
        if str(lock.stat().st_ino) in held:
            return lock.name[1 : -len(".json.lock")]
    return None


class Killer(threading.Thread):
    """Kills a worker of this process after a while."""

    def __init__(self, space, delay, rng):
        super().__init__()
        self.space, self.delay, self.rng = space, delay, rng
        self.killed_at = self.case = None

    def run(self):
        while not workers():
            time.sleep(0.001)
        time.sleep(self.delay)
        # A worker that starts or goes from one case to the next holds none, for longer than a short delay.
        while self.case is None and (at_work := sorted(workers())):
            pid = self.rng.choice(at_work)
            os.kill(pid, signal.SIGSTOP)  # so that it can't go on to the next case while it is looked at
            self.case = case_in_hand(pid, self.space)
            self.killed_at = time.monotonic()
            os.kill(pid, signal.SIGCONT if self.case is None else signal.SIGKILL)


def kill_a_worker(slow_cases, undisturbed, space, delay, rng):
    """One run with a worker killed, and one after it; whether the killed one had a case in hand."""
    killer = Killer(space, delay, rng)
    killer.start()
    try:
        prepare(slow_cases, space)
        failed = None
    except AutosegError as error:
        failed = error
    ended = time.monotonic()
    killer.join()
    if killer.case is not None:
        assert failed is not None
        assert (failed.what, failed.where) == ("a worker process died", f"case {killer.case}")
        assert failed.found == "signal SIGKILL"
        assert ended - killer.killed_at < 30
        print(f"  {killer.case} after {delay:.2f} s, reported within {ended - killer.killed_at:.2f} s")
    before = done_so_far(space)
    prepare(slow_cases, space)
    assert before.items() <= done_so_far(space).items()
    assert_same(space, undisturbed)
    return killer.case is not None


def kill_the_main_process(slow_cases, undisturbed, folder, delay):
    """One run killed, and one after it, which does not wait for the workers' end; whether it was killed in time."""
    dataset, plan = slow_cases
    folder.mkdir(exist_ok=True)
    write(folder / "dataset.json", dataset)
    write(folder / "plan.json", plan)
    space = Workspace(folder / "w")
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "begins\n"
        while not space.preprocessed(CONFIGURATION).exists():
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
    before = done_so_far(space)
    print(f"  after {delay:.2f} s, {len(before)} cases done")
    prepare(slow_cases, space)
    assert before.items() <= done_so_far(space).items()
    assert_same(space, undisturbed)
    return process.returncode == -signal.SIGKILL


def test_a_killed_worker(slow_cases, undisturbed, tmp_path):
    rng = random.Random(SEED)
    # The run may end before it is hit, on a machine that is quicker now than it was undisturbed.
    assert any(
        kill_a_worker(slow_cases, undisturbed, Workspace(tmp_path / str(n)), undisturbed[1] / n, rng)
        for n in range(3, 9)
    )


def test_a_killed_main_process(slow_cases, undisturbed, tmp_path):
    assert any(
        kill_the_main_process(slow_cases, undisturbed, tmp_path / str(n), undisturbed[1] / n) for n in range(3, 9)
    )


@pytest.mark.long
def test_twenty_killed_workers(slow_cases, undisturbed, tmp_path):
    rng = random.Random(SEED)
    print(f"seed {SEED}, an undisturbed run takes {undisturbed[1]:.2f} s")
    trials = (
        kill_a_worker(slow_cases, undisturbed, Workspace(tmp_path / str(n)), rng.uniform(0, undisturbed[1]), rng)
        for n in range(60)
    )
    landed = 0
    for hit in trials:
        landed += hit
        if landed == 20:
            break
    assert landed == 20


@pytest.mark.long
def test_twenty_killed_main_processes(slow_cases, undisturbed, tmp_path):
    rng = random.Random(SEED)
    print(f"seed {SEED}, an undisturbed run takes {undisturbed[1]:.2f} s")
    landed = 0
    for number in range(60):
        landed += kill_the_main_process(slow_cases, undisturbed, tmp_path / str(number), rng.uniform(0, undisturbed[1]))
        if landed == 20:
            break
    assert landed == 20


def test_two_processes_share_the_work(slow_cases, undisturbed, tmp_path):
    dataset, plan = slow_cases
    write(tmp_path / "dataset.json", dataset)
    write(tmp_path / "plan.json", plan)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert [code for _, code in ends] == [0, 0], ends
    assert_same(Workspace(tmp_path / "w"), undisturbed)


def test_two_plans_in_one_workspace_leave_whole_cases(slow_cases, undisturbed, tmp_path):
    dataset, plan = slow_cases
    configuration = plan.configurations[CONFIGURATION]
    other = replace(plan, configurations={CONFIGURATION: replace(configuration, spacing=(3.0, 0.9, 0.8))})
    space = Workspace(tmp_path / "w")
    space.root.mkdir()
    processes = []
    for name, used in (("one", plan), ("two", other)):
        write(tmp_path / name / "dataset.json", dataset)
        write(tmp_path / name / "plan.json", used)
        (tmp_path / name / "w").symlink_to(space.root, target_is_directory=True)
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / name)]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    read_whole = 0
    while any(process.poll() is None for process in processes):
        # A reader beside them sees whole cases or says so; `contents` would fail on a mixed one.
        for file in space.preprocessed(CONFIGURATION).glob("[!.]*.json"):
            try:
                record = read(file, PreprocessedCase)
                case = load_case(space.case(CONFIGURATION, record.name), record.arrays_sha256)
            except AutosegError:
                continue
            assert case.image.shape[1:] == case.label.shape == record.placement.shape
            read_whole += 1
    assert [process.returncode for process in processes] == [0, 0]
    assert read_whole > 0
    assert len(contents(space)) == len(dataset.cases)
    prepare(slow_cases, space)
    assert_same(space, undisturbed)
