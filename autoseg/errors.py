"""The errors a user can cause, each explained in one message."""

from collections.abc import Iterable
from difflib import get_close_matches


class AutosegError(Exception):
    """Something the user can put right, told in one message.

    Parameters
    ----------
    what : str
        What failed, in one sentence without a final stop.
    where : str, optional
        The case, file or key concerned.
    found : object, optional
        The offending value.
    allowed : object, optional
        What would have been accepted.
    hint : str, optional
        What to do next.

    Notes
    -----
    The five parts stay readable as attributes, so that programs need not take the text apart. Arguments are
    positional in `args` too, which lets the error cross a process boundary.
    """

    def __init__(
        self,
        what: str,
        where: str | None = None,
        found: object = None,
        allowed: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what, where, found, allowed, hint)
        self.what = what
        self.where = where
        self.found = found
        self.allowed = allowed
        self.hint = hint

    def __str__(self) -> str:
        """One line for what failed, then one line for each part that is known."""
        lines = [self.what]
        for title, part in (
            ("where", self.where),
            ("found", self.found),
            ("allowed", self.allowed),
            ("next", self.hint),
        ):
            if part is not None:
                lines.append(f"  {title + ':':<9}{part}")
        return "\n".join(lines)

    @property
    def in_one_line(self) -> str:
        """What failed, what was found and where, for a table."""
        found = self.what if self.found is None else f"{self.what}: {self.found}"
        return found if self.where is None else f"{found} ({self.where})"


class DatasetError(AutosegError):
    """The user's images, labels or their description can't be used."""


class ArtifactError(AutosegError):
    """A file that autoseg wrote, or a person edited, can't be read or written."""


class SettingError(AutosegError):
    """An option or a plan key is unknown or out of bounds."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came, as a scheduler sends it before it takes the machine away, and all was saved."""


OUT_OF_MEMORY = "fewer --jobs, or in training a smaller configurations.NAME.batch_size (--set), need less memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on some device, ran out of memory; asked by name, so that torch need not be loaded."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # On CPUs torch has no class of its own for it.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when none is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return close[0] if close else None
