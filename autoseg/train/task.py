"""What a fold is trained as."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoseg.artifacts.base import digest
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.model import Pretrained
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.artifacts.splits import Fold
from autoseg.networks.stored import StoredFold
from autoseg.train.teacher import Teacher


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
    teacher : Teacher or None
        Whom it imitates beside the labels.
    previous_sha256 : mapping of str to str
        In the second stage of a cascade: of what the first one predicted of each case, by the case's name.
    """

    plan: Plan
    settings: tuple[str, ...]
    configuration_name: str
    fold: int
    cases: Fold
    naming: Naming
    file_values: tuple[int, ...] = ()
    pretrained: StoredFold | Pretrained | None = None
    teacher: Teacher | None = None
    previous_sha256: Mapping[str, str] = field(default_factory=dict)

    def data_sha256(self, records: Mapping[str, PreprocessedCase], names: Sequence[str]) -> str:
        """Hash of the arrays of some cases, not of the files they were made from: these may have been copied since."""
        arrays = [records[name].arrays_sha256 for name in names]
        return digest(*arrays, *(self.previous_sha256[name] for name in names if self.previous_sha256))
