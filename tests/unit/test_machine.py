"""CPUs, memory and BLAS threads: of this machine, and of containers."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg import machine
from autoseg.errors import SettingError
from autoseg.machine import alone, available_cpus, available_memory_bytes, locked, use_one_blas_thread


def test_one_blas_thread():
    import scipy.linalg  # noqa: F401 - loads scipy's own OpenBLAS

    use_one_blas_thread()
    maps = Path("/proc/self/maps").read_text()
    libraries = set(re.findall(r"/\S*scipy_openblas64\S*", maps))
    if not libraries:
        pytest.skip("this numpy has another BLAS")
    for library in libraries:
        assert ctypes.CDLL(library).scipy_openblas_get_num_threads64_() == 1


def test_limits_of_this_machine():
    assert 1 <= available_cpus() <= os.cpu_count()
    assert available_memory_bytes() > 0


@pytest.mark.parametrize(
    ("version", "files", "cpus", "memory"),
    [
        (2, {"cpu.max": "150000 100000", "memory.max": "1000", "memory.current": "400"}, 2, 600),
        (2, {"cpu.max": "max 100000", "memory.max": "max", "memory.current": "400"}, None, None),
        (
            1,
            {
                "cpu.cfs_quota_us": "100000",
                "cpu.cfs_period_us": "100000",
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "900",
                "memory.stat": "cache 50\ntotal_inactive_file 30",
            },
            1,
            130,
        ),
        (1, {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None, None),
    ],
)
def test_limits_of_a_container(version, files, cpus, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_cgroup_folders", lambda _controller: [tmp_path])
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: range(8))
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert available_cpus() == (cpus or 8)
    if memory is not None:
        assert available_memory_bytes() == memory
    else:
        assert available_memory_bytes() > 10**6


COUNT = """
import sys
from pathlib import Path
from autoseg.machine import locked
folder = Path(sys.argv[1])
for _ in range(200):
    with locked(folder / ".lock", wait=True) as held:
        assert held
        number = int((folder / "number").read_text())
        (folder / "number").write_text(str(number + 1))
"""


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path):
    """Each removes the lock's file at its end, while others wait for it, open it or make it anew."""
    (tmp_path / "number").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "600"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_a_lock_of_another_is_told(tmp_path):
    with locked(tmp_path / ".lock", wait=False) as held:
        assert held
        with pytest.raises(BlockingIOError), locked(tmp_path / ".lock", wait=False):
            pass
        with pytest.raises(SettingError, match="taken"), alone(tmp_path / ".lock", "taken"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_folder_made_for_a_lock_stays_only_with_something_in_it(tmp_path):
    for kept in (False, True):
        with alone(tmp_path / "w" / ".lock", "taken"):
            if kept:
                (tmp_path / "w" / "file").touch()
        assert (tmp_path / "w").exists() == kept


def test_where_no_lock_can_be_held_work_goes_on(tmp_path):
    (tmp_path / "file").touch()
    with alone(tmp_path / "file" / ".lock", "taken"):
        pass
    with locked(tmp_path / "file" / ".lock", wait=True) as held:
        assert not held
