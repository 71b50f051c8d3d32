"""Cases on a dask.distributed cluster: the address of a scheduler -> an executor."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from autoseg import __version__
from autoseg.errors import AutosegError, SettingError
from autoseg.machine import seen_soon, use_one_blas_thread

R = TypeVar("R")
CONNECT_SECONDS = 15


@contextmanager
def cluster_executor(address: str, sees: Path | None = None) -> Iterator["ClusterExecutor"]:
    """Connect to a cluster that runs already; with TLS where dask's configuration names certificates.

    Parameters
    ----------
    address : str
        Of its scheduler, ``tcp://HOST:PORT`` or ``tls://HOST:PORT`` for instance.
    sees : Path, optional
        A folder of this process that each worker must find before it begins a case.

    Yields
    ------
    ClusterExecutor

    Raises
    ------
    SettingError
        dask.distributed is not installed, or there is no scheduler at the address.
    """
    try:
        # Its name as text: it may be missing, and has no types.
        distributed = import_module("distributed")
    except ImportError as error:
        raise SettingError(
            "running cases on a cluster needs dask.distributed, which is not installed",
            where="--scheduler",
            hint="python -m pip install 'autoseg[cluster]'",
        ) from error

    async def greet(connection: dict[str, Any]) -> None:
        async with distributed.rpc(address, timeout=CONNECT_SECONDS, connection_args=connection) as scheduler:
            await scheduler.identity()

    try:
        security = distributed.Security()
        # A client that met something else than a scheduler can't be closed again.
        greeting = greet(security.get_connection_args("client"))
        asyncio.run(asyncio.wait_for(greeting, CONNECT_SECONDS))
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False, security=security)
    except Exception as error:  # whatever answers there may send anything
        raise SettingError(
            "the cluster's scheduler can't be reached",
            where="--scheduler",
            found=f"{address}: {str(error) or f'no answer within {CONNECT_SECONDS} s'}".splitlines()[0],
            allowed="the address that a running scheduler prints, such as tcp://10.0.0.1:8786",
            hint="start one with: dask scheduler",
        ) from error
    # What is lost is told by the cases in hand, once; dask and what it stands on add pages of tracebacks.
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield ClusterExecutor(client, sees)
    finally:
        client.close()


class ClusterExecutor(Executor):
    """Runs calls on a cluster's workers, whose number may change.

    Notes
    -----
    dask calls again, elsewhere, what a dying worker had in hand, up to its setting
    ``distributed.scheduler.allowed-failures``.
    """

    def __init__(self, client: Any, sees: Path | None) -> None:  # noqa: ANN401 - distributed may be missing
        self._client = client
        self._executor = client.get_executor(pure=False)
        self._sees = sees
        self._known = 1

    @property
    def jobs(self) -> int:
        """Calls that the workers of this moment can make at once; 1 where there are none yet."""
        with suppress(OSError):  # a lost scheduler is reported by the cases in hand
            self._known = max(1, sum(self._client.nthreads().values()))
        return self._known

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:  # noqa: ANN401
        """Call `fn` on a worker; see `on_worker`."""
        future: Future[R] = self._executor.submit(on_worker, fn, args, kwargs, self._sees, __version__)
        return future


def on_worker(
    function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any], sees: Path | None, version: str
) -> R:
    """Make a call; errors of ours name this host.

    Raises
    ------
    SettingError
        This host has another autoseg, or does not see the folder.
    """
    host = f"host {socket.gethostname()}"
    if version != __version__:
        raise SettingError(
            "a worker of the cluster has another autoseg", where=host, found=__version__, allowed=version
        )
    if sees is not None and not seen_soon(lambda: sees.is_dir() or None):
        raise SettingError(
            "a worker of the cluster does not see the folder to write to",
            where=f"{sees}, on {host}",
            hint="put dataset and workspace on a file system that every host has under the same path",
        )
    use_one_blas_thread()
    try:
        result = function(*args, **kwargs)
    except AutosegError as error:
        raise _with_host(error, host) from error
    # A case that could not be read is no failure of the call.
    return _with_host(result, host) if isinstance(result, AutosegError) else result


E = TypeVar("E", bound=AutosegError)


def _with_host(error: E, host: str) -> E:
    where = f"{error.where}, on {host}" if error.where else host
    return type(error)(error.what, where, error.found, error.allowed, error.hint)
