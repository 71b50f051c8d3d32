"""Logging for the command line; the library itself only asks for loggers."""

import logging
import sys


class _BesideBars(logging.StreamHandler):  # type: ignore[type-arg]  # generic only in typing stubs
    """Writes to standard error without tearing progress bars apart."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        # Planning from a fingerprint says nothing, and is done before tqdm would be loaded.
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def set_up(*, debug: bool) -> None:
    """Send autoseg's messages to standard error: plain lines, with time and place under `debug`."""
    logger = logging.getLogger("autoseg")
    logger.handlers.clear()
    handler = _BesideBars()
    form = "%(asctime)s %(name)s %(levelname)s: %(message)s" if debug else "%(message)s"
    handler.setFormatter(logging.Formatter(form))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
