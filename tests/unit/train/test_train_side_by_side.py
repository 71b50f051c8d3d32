"""Folds side by side: who runs when, and what becomes of those that fail. The folds here are small scripts."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from autoseg.train import side_by_side
from autoseg.train.side_by_side import run_folds

FOLD = """
import os, signal, sys, time
from pathlib import Path
from autoseg.train.side_by_side import follow
follow()
folder, fold, device = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def stop(*_):
    (folder / f"{fold} stopped").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
began = time.monotonic()
(folder / f"{fold} began").touch()
print("begins", file=sys.stderr)
if (folder / f"{fold} fails").exists():
    exec((folder / f"{fold} fails").read_text())
time.sleep(60 if (folder / "long").exists() else 0.3)
(folder / f"{fold} done").write_text(f"{device} {began} {time.monotonic()} {len(os.sched_getaffinity(0))}")
"""
PARENT = """
import sys
from autoseg.train import side_by_side
side_by_side.PROGRAM = open(sys.argv[2]).read()
side_by_side.run_folds([0, 1], ["a", "b"], lambda fold, device: (sys.argv[1], str(fold), device))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run folds 0 to `count` - 1."""
    monkeypatch.setattr(side_by_side, "PROGRAM", FOLD)

    def run(count, devices):
        return run_folds(range(count), devices, lambda fold, device: (str(tmp_path), str(fold), device))

    return run


def done(folder):
    """Device, begin and end of each fold that ended well, and how many CPUs it might use."""
    found = {}
    for file in folder.glob("* done"):
        device, began, ended, cpus = file.read_text().split()
        found[int(file.name.split()[0])] = (device, float(began), float(ended), int(cpus))
    return found


def wait_for(condition):
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("in vain")


def test_each_device_has_one_fold_at_a_time(run, tmp_path):
    assert run(5, ["a", "b"]) == {}
    folds = done(tmp_path)
    assert sorted(folds) == [0, 1, 2, 3, 4]
    assert {folds[0][0], folds[1][0]} == {"a", "b"}
    for device in "ab":
        times = sorted((began, ended) for at, began, ended, _ in folds.values() if at == device)
        assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times))


def test_folds_that_fail_leave_the_others_alone(run, tmp_path):
    (tmp_path / "1 fails").write_text("os.kill(os.getpid(), signal.SIGKILL)")
    (tmp_path / "2 fails").write_text("sys.exit('Error: no memory\\n  next:    buy some')")
    failures = run(6, ["a", "b", "c", "d"])
    assert failures == {1: "ended by signal SIGKILL", 2: "no memory\n  next:    buy some"}
    folds = done(tmp_path)
    assert sorted(folds) == [0, 3, 4, 5]
    # A device may be to blame: while there are others it gets nothing more.
    assert {folds[fold][0] for fold in (4, 5)} <= {"a", "d"}


def test_where_folds_failed_on_every_device_the_rest_is_tried_all_the_same(run, tmp_path):
    for fold in (0, 1):
        (tmp_path / f"{fold} fails").write_text("sys.exit(7)")
    assert run(4, ["a", "b"]) == {0: "exit code 7: begins", 1: "exit code 7: begins"}
    assert sorted(done(tmp_path)) == [2, 3]


def test_folds_on_cpus_share_them(run, tmp_path):
    assert run(2, ["cpu", "cpu"]) == {}
    cpus = len(os.sched_getaffinity(0))
    assert sum(entry[3] for entry in done(tmp_path).values()) == max(2, cpus)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_stops_this_process_stops_all_folds_and_none_begins(run, tmp_path, number):
    (tmp_path / "long").touch()

    def interrupt():
        wait_for(lambda: len(list(tmp_path.glob("* began"))) == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(4, ["a", "b"])
    thread.join()
    assert sorted(path.name for path in tmp_path.glob("* stopped")) == ["0 stopped", "1 stopped"]
    assert len(list(tmp_path.glob("* began"))) == 2


def test_folds_stop_when_this_process_is_killed(tmp_path):
    (tmp_path / "long").touch()
    (tmp_path / "fold.py").write_text(FOLD)
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path, tmp_path / "fold.py"]) as parent:
        wait_for(lambda: len(list(tmp_path.glob("* began"))) == 2)
        parent.kill()
    wait_for(lambda: len(list(tmp_path.glob("* stopped"))) == 2)
