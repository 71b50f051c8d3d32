"""Cases on a real dask cluster of two worker processes, one of which is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from autoseg import cluster, machine
from autoseg.artifacts.base import read, write
from autoseg.artifacts.case_report import CaseReport
from autoseg.artifacts.prediction import PredictionSet
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.cluster import on_worker
from autoseg.errors import AutosegError, DatasetError, SettingError
from autoseg.executor import case_executor, run_cases
from autoseg.images.io import read_label
from autoseg.layout import Workspace
from autoseg.preprocess import stage
from autoseg.preprocess.store import load_case

pytest.importorskip("distributed")
CONFIGURATION = "3d_fullres"
SCRIPT = """
import sys
import dask
from distributed import LocalCluster
if __name__ == "__main__":
    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    protocol = sys.argv[1]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, protocol=protocol) as cluster:
        print(cluster.scheduler_address, *(nanny.pid for nanny in cluster.workers.values()), flush=True)
        sys.stdin.read()
"""


@contextmanager
def running_cluster(protocol, **settings):
    """A scheduler's address and the processes of its two workers; dask's settings as environment variables."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, protocol],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | settings,
    )
    with process:
        address, *pids = process.stdout.readline().split()
        yield address, [int(pid) for pid in pids]
        process.stdin.close()


@pytest.fixture
def workers():
    """A scheduler's address and the processes of its two workers."""
    with running_cluster("tcp://") as found:
        yield found


def arrays(space):
    found = {}
    for file in sorted(space.preprocessed(CONFIGURATION).glob("[!.]*.json")):
        record = read(file, PreprocessedCase)
        case = load_case(space.case(CONFIGURATION, record.name), record.arrays_sha256)
        found[record.name] = (case.image, case.label, case.locations)
    return found


def assert_same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert all(np.array_equal(a, b) for a, b in zip(one[name], other[name], strict=True))


def test_a_worker_killed_while_cases_are_prepared(workers, slow_cases, autoseg, tmp_path):
    address, pids = workers
    dataset, plan = slow_cases
    there, here = Workspace(tmp_path / "there"), Workspace(tmp_path / "here")
    write(there.dataset, dataset)
    write(there.plan, plan)
    command = [sys.executable, "-m", "autoseg", "preprocess", "-w", str(there.root), "--scheduler", address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = there.preprocessed(CONFIGURATION)
    deadline = time.monotonic() + 60
    while not list(folder.glob("[!.]*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(pids[0], signal.SIGKILL)
    done_then = len(list(folder.glob("[!.]*.json")))
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert done_then < len(dataset.cases)
    assert f"{len(dataset.cases)} cases" in told
    stage.run(dataset, plan, CONFIGURATION, here, jobs=2)
    assert_same(arrays(there), arrays(here))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in here.preprocessed(CONFIGURATION).iterdir()
    )
    # On record as what these inputs give, here as there.
    again = autoseg("preprocess", "-w", there.root, "--jobs", 1)
    assert "of 10 cases" not in again.stderr


def assert_same_predictions(here_folder, there_folder):
    names = sorted(path.name for path in here_folder.iterdir())
    assert sorted(path.name for path in there_folder.iterdir()) == names
    for name in names:
        here, there = here_folder / name, there_folder / name
        if name.endswith(".npz"):
            # Sums of logits may be rounded in another order with another number of threads.
            one, other = np.load(here)["probabilities"], np.load(there)["probabilities"]
            np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), atol=2e-3)
        elif here.is_dir():
            assert_same_reports(here, there)
        elif name.endswith(".json"):
            assert read(here, PredictionSet) == read(there, PredictionSet)
        else:
            one, other = read_label(here, case=name), read_label(there, case=name)
            assert one.geometry == other.geometry
            np.testing.assert_array_equal(one.array_zyx, other.array_zyx)


def assert_same_reports(here_folder, there_folder):
    names = sorted(path.name for path in here_folder.iterdir())
    assert sorted(path.name for path in there_folder.iterdir()) == names
    for name in names:
        if name.endswith(".json"):
            assert read(here_folder / name, CaseReport) == read(there_folder / name, CaseReport)
        else:
            assert (here_folder / name).read_bytes() == (there_folder / name).read_bytes()


def test_predictions_are_those_of_one_machine(workers, trained, phantoms, autoseg, tmp_path):
    address, _ = workers
    common = ("-w", trained, "--device", "cpu", "--save-probabilities", "--report")
    autoseg("predict", phantoms / "imagesTs", tmp_path / "here", *common)
    (tmp_path / "there").mkdir()
    autoseg("predict", phantoms / "imagesTs", tmp_path / "there", *common, "--scheduler", address)
    assert_same_predictions(tmp_path / "here", tmp_path / "there")


@pytest.mark.long
def test_a_worker_killed_while_cases_are_predicted(workers, trained, phantoms, autoseg, tmp_path):
    address, pids = workers
    cases, there = phantoms / "imagesTr", tmp_path / "there"
    common = ("-w", str(trained), "--device", "cpu", "--no-mirroring", "--step=1", "--save-probabilities")
    autoseg("predict", cases, tmp_path / "here", *common)
    there.mkdir()
    command = [sys.executable, "-m", "autoseg", "predict", str(cases), str(there), *common, "--scheduler", address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(there.glob("[!.]*.npz")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(pids[0], signal.SIGKILL)
    done_then = len(list(there.glob("[!.]*.npz")))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert 0 < done_then < len(list(cases.iterdir()))
    assert_same_predictions(tmp_path / "here", there)


def test_failures_name_the_case(workers, tmp_path):
    address, _ = workers
    with case_executor(1, scheduler=address, sees=tmp_path) as executor:
        assert executor.jobs == 2
        assert run_cases(executor, abs, [-3, -2, -3], name_of=str, progress="test") == [3, 2, 3]
        with pytest.raises(AutosegError) as caught:
            run_cases(executor, int, ["1", "two"], name_of=str, progress="test")
        assert caught.value.where == "case two"
        with pytest.raises(AutosegError, match="died again and again") as caught:
            run_cases(executor, signal.raise_signal, [0, signal.SIGKILL], name_of=str, progress="test", keeps=True)
        assert caught.value.where == f"case {signal.SIGKILL}"
        assert "goes on" in caught.value.hint


def test_a_cluster_with_certificates(tmp_path, monkeypatch):
    import dask

    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    making = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=here"]
    subprocess.run([*making, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    settings = {"ca-file": certificate}
    for role in ("scheduler", "worker", "client"):
        settings |= {f"{role}.key": key, f"{role}.cert": certificate}
    settings = {f"distributed.comm.tls.{name}": str(path) for name, path in settings.items()}
    variables = {"DASK_" + name.replace(".", "__").replace("-", "_").upper(): path for name, path in settings.items()}
    with running_cluster("tls://", **variables) as (address, _):
        assert address.startswith("tls://")
        with dask.config.set(settings), case_executor(1, scheduler=address, sees=tmp_path) as executor:
            assert run_cases(executor, abs, [-3, -2], name_of=str, progress="test") == [3, 2]
        monkeypatch.setattr(cluster, "CONNECT_SECONDS", 3)
        with pytest.raises(SettingError, match="can't be reached") as caught, case_executor(1, scheduler=address):
            pass
        assert address in caught.value.found
    encrypted = {"distributed.comm.require-encryption": True}
    with dask.config.set(settings | encrypted), pytest.raises(SettingError, match="encryption required"):  # noqa: SIM117
        with case_executor(1, scheduler="tcp://127.0.0.1:1"):
            pass


@pytest.mark.long
def test_a_cluster_that_goes_away_is_reported(workers, tmp_path):
    address, pids = workers
    scheduler = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    with case_executor(1, scheduler=address) as executor:
        os.kill(scheduler, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(AutosegError, match="scheduler was lost") as caught:
            run_cases(executor, time.sleep, [60], name_of=str, progress="test")
    assert caught.value.where == "case 60"
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:1", "other://here:1"])
def test_no_scheduler_at_the_address(address, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with pytest.raises(SettingError, match="can't be reached") as caught, case_executor(1, scheduler=address):
        pass
    assert address in caught.value.found


def test_distributed_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingError, match="not installed") as caught, case_executor(1, scheduler="tcp://here:1"):
        pass
    assert "pip install 'autoseg[cluster]'" in caught.value.hint


def test_a_host_that_lacks_something_is_named(tmp_path, monkeypatch):
    host = os.uname().nodename

    def fail():
        raise DatasetError("a file is missing", where="case a, /data/a.nii.gz")

    with pytest.raises(DatasetError) as caught:
        on_worker(fail, (), {}, tmp_path, cluster.__version__)
    assert caught.value.where == f"case a, /data/a.nii.gz, on host {host}"
    assert on_worker(DatasetError, ("unread",), {}, tmp_path, cluster.__version__).where == f"host {host}"
    with pytest.raises(SettingError, match="another autoseg"):
        on_worker(abs, (1,), {}, tmp_path, "0.0.0.other")
    monkeypatch.setattr(machine, "SEEN_WITHIN_SECONDS", 0.1)
    with pytest.raises(SettingError, match="does not see") as caught:
        on_worker(abs, (1,), {}, tmp_path / "elsewhere", cluster.__version__)
    assert host in caught.value.where
