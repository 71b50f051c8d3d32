"""The server behind the page: cases -> an address on this machine that only who was told it can read.

What is asked for is looked up among the answers there are; no path from a request reaches the disk.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_urlsafe
from threading import Lock

import msgspec

from autoseg.errors import AutosegError, SettingError
from autoseg.view.cases import ViewCase
from autoseg.view.volumes import Loaded, load

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
NIIVUE = PAGE / "niivue.js"
NIIVUE_VERSION = "0.69.0"  # viewer/package.json pins the same
NIIVUE_ARCHIVE = f"https://registry.npmjs.org/@niivue/niivue/-/niivue-{NIIVUE_VERSION}.tgz"
ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")
KEPT_CASES = 2  # in memory: the one that is shown, and the one before or after
TIMEOUT_S = 60
JSON, VOLUME = "application/json", "application/octet-stream"
# Nothing from elsewhere, no script or style within the page, no frame around it. NiiVue has its fonts as data: URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A case in the page's list."""

    name: str
    mean_dice: float | None
    fold: int | None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a case can't be shown."""

    error: str


class Answers:
    """Everything that can be asked for.

    Parameters
    ----------
    cases : sequence of ViewCase
    niivue : Path
        The script of NiiVue.

    Raises
    ------
    SettingError
        There is no such script.
    """

    def __init__(self, cases: Sequence[ViewCase], niivue: Path = NIIVUE) -> None:
        self._cases = tuple(cases)
        listed = [Listed(name=case.name, mean_dice=case.mean_dice, fold=case.fold) for case in cases]
        self._fixed = {
            "": ("text/html; charset=utf-8", (PAGE / "index.html").read_bytes()),
            "viewer.js": ("text/javascript; charset=utf-8", (PAGE / "viewer.js").read_bytes()),
            "viewer.css": ("text/css; charset=utf-8", (PAGE / "viewer.css").read_bytes()),
            "niivue.js": ("text/javascript; charset=utf-8", _script(niivue)),
            "cases.json": (JSON, msgspec.json.encode(listed)),
        }
        self._load = lru_cache(maxsize=KEPT_CASES)(lambda number: load(self._cases[number]))
        self._lock = Lock()

    def get(self, name: str) -> tuple[HTTPStatus, str, bytes]:
        """What stands under a name.

        Parameters
        ----------
        name : str
            ``""`` for the page, ``cases.json``, ``0.json`` for the first case, ``0/image-0.nii``,
            ``0/reference.nii``, ``0/predicted.nii``.

        Returns
        -------
        status : HTTPStatus
            404 where there is nothing of this name, 500 where a case can't be read.
        content_type : str
        content : bytes
        """
        if name in self._fixed:
            return HTTPStatus.OK, *self._fixed[name]
        match = re.fullmatch(r"(\d{1,9})(?:\.json|/(reference|predicted)\.nii|/image-(\d{1,9})\.nii)", name, re.ASCII)
        if match is None or int(match[1]) >= len(self._cases):
            return _nothing()
        try:
            loaded = self._loaded(int(match[1]))
        except AutosegError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, JSON, msgspec.json.encode(Failure(error=str(error)))
        if match[3] is not None:
            channel = int(match[3])
            if channel >= len(loaded.image.array_czyx):
                return _nothing()
            return HTTPStatus.OK, VOLUME, loaded.image_bytes(channel)
        if match[2] is not None:
            label_zyx = loaded.reference_zyx if match[2] == "reference" else loaded.predicted_zyx
            return _nothing() if label_zyx is None else (HTTPStatus.OK, VOLUME, loaded.label_bytes(label_zyx))
        return HTTPStatus.OK, JSON, msgspec.json.encode(loaded.page)

    def _loaded(self, number: int) -> Loaded:
        # One case at a time: the page asks for all volumes of a case at once.
        with self._lock:
            return self._load(number)


class ViewServer(ThreadingHTTPServer):
    """Serves the answers to who knows the address.

    Parameters
    ----------
    answers : Answers
    port : int
        0: one that is free.

    Raises
    ------
    SettingError
        The port is taken, or not for everybody.
    """

    daemon_threads = True

    def __init__(self, answers: Answers, port: int = 0) -> None:
        self.answers = answers
        self.token = token_urlsafe(32)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise SettingError(
                "the port can't be used",
                where="--port",
                found=f"{port}: {error.strerror}",
                hint="name another one, or none: a free one is taken then",
            ) from error

    @property
    def url(self) -> str:
        """The page's address, with the token that every request needs."""
        return f"http://{ADDRESS}:{self.server_address[1]}/{self.token}/"

    def serve(self) -> None:
        """Answer until Ctrl-C."""
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            log.debug("interrupted")
        finally:
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ViewServer
    server_version, sys_version = "autoseg", ""
    timeout = TIMEOUT_S  # a connection that says nothing

    def do_GET(self) -> None:
        """Answer, or say that there is nothing."""
        status, content_type, content = self._answer()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(ConnectionError):  # a page that was closed meanwhile
            self.wfile.write(content)

    def _answer(self) -> tuple[HTTPStatus, str, bytes]:
        # A page from elsewhere can have its own name point to this machine; its requests still carry that name.
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host.lower() not in HOSTS:
            return _refused()
        token, slash, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not slash or not compare_digest(token.encode(), self.server.token.encode()):
            return _refused()
        return self.server.answers.get(name)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as http.server has it
        """To the log, without the token."""
        log.debug("%s", (format % arguments).replace(self.server.token, "..."))


def _script(niivue: Path) -> bytes:
    if not niivue.is_file():
        raise SettingError(
            "the viewer needs NiiVue's script, which does not come with autoseg",
            where=str(niivue),
            found="no such file",
            hint="in a clone: make viewer (needs npm). Elsewhere: autoseg view --niivue FILE, which is "
            f"package/dist/niivue.umd.js in {NIIVUE_ARCHIVE}",
        )
    return niivue.read_bytes()


def _nothing() -> tuple[HTTPStatus, str, bytes]:
    return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"there is nothing here\n"


def _refused() -> tuple[HTTPStatus, str, bytes]:
    return HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"open the address that autoseg view printed\n"
