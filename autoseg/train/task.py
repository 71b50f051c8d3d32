"""What a fold is trained as."""

from dataclasses import dataclass

from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.model import Pretrained
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.splits import Fold
from autoseg.networks.stored import StoredFold


@dataclass(frozen=True, slots=True)
class FoldTask:
    """Which fold is trained, from what.

    Attributes
    ----------
    plan : Plan
        With every setting applied.
    settings : tuple of str
        The settings, for the manifest.
    cases : Fold
    naming : Naming
    file_values : tuple of int
        As the dataset's.
    pretrained : StoredFold, Pretrained or None
        The weights it begins with, as asked or as an earlier run recorded; None: fresh ones.
    """

    plan: Plan
    settings: tuple[str, ...]
    configuration_name: str
    fold: int
    cases: Fold
    naming: Naming
    file_values: tuple[int, ...] = ()
    pretrained: StoredFold | Pretrained | None = None
