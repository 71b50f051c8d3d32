"""The only place that joins paths of a workspace."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FoldFolder:
    """What one trained fold leaves in its folder."""

    root: Path

    @property
    def weights(self) -> Path:
        """The final weights."""
        return self.root / "weights.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on training."""
        return self.root / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The one before, for when the newest is damaged."""
        return self.root / "checkpoint.previous.pt"

    @property
    def manifest(self) -> Path:
        """What was trained from what, and how."""
        return self.root / "manifest.json"

    @property
    def extension(self) -> Path:
        """The manifest to be, while a finished training is extended."""
        return self.root / "extension.json"

    @property
    def metrics(self) -> Path:
        """One JSON object for each epoch."""
        return self.root / "metrics.jsonl"

    @property
    def progress(self) -> Path:
        """The curves as a picture."""
        return self.root / "progress.png"

    @property
    def tensorboard(self) -> Path:
        """Folder of the curves for TensorBoard, where that is installed."""
        return self.root / "tensorboard"

    @property
    def lock(self) -> Path:
        """Held by the process that trains this fold; beside the folder, which a restart removes."""
        return self.root.with_name(f".{self.root.name}.lock")

    @property
    def validation(self) -> Path:
        """Folder of the predicted validation cases."""
        return self.root / "validation"

    def levels(self, case: str) -> Path:
        """Probabilities of a validation case, where `select` needs them."""
        return self.validation / "probabilities" / f"{case}.b2nd"

    @property
    def evaluation(self) -> Path:
        """Scores of the validation cases."""
        return self.validation / "evaluation.json"


def folds_in(models: Path) -> dict[int, FoldFolder]:
    """The folds that stand in a configuration's folder, by number."""
    numbered = {path.name.removeprefix("fold_"): path for path in models.glob("fold_*")}
    return {number: FoldFolder(numbered[str(number)]) for number in sorted(map(int, filter(str.isdecimal, numbered)))}


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of one preprocessed case."""

    image: Path
    label: Path
    locations: Path
    record: Path

    @property
    def arrays(self) -> tuple[Path, ...]:
        """All but the record."""
        return (self.image, self.label, self.locations)

    @property
    def lock(self) -> Path:
        """Held by the process that makes the case."""
        return self.record.with_name(f".{self.record.name}.lock")


@dataclass(frozen=True, slots=True)
class MapFiles:
    """What the first stage of a cascade predicted of one case, on the second one's grid."""

    map: Path
    record: Path

    @property
    def arrays(self) -> tuple[Path, ...]:
        """All but the record."""
        return (self.map,)

    @property
    def lock(self) -> Path:
        """Held by the process that makes the map."""
        return self.record.with_name(f".{self.record.name}.lock")


@dataclass(frozen=True, slots=True)
class Workspace:
    """One folder with everything autoseg knows about one dataset."""

    root: Path

    @property
    def dataset(self) -> Path:
        """The cases as found."""
        return self.root / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """What the dataset measures."""
        return self.root / "fingerprint.json"

    @property
    def check(self) -> Path:
        """What a look at every case found."""
        return self.root / "check.json"

    @property
    def plan(self) -> Path:
        """Every choice made for it."""
        return self.root / "plan.json"

    @property
    def explanation(self) -> Path:
        """Why each choice was made, for people."""
        return self.plan.with_suffix(".md")

    @property
    def splits(self) -> Path:
        """Which cases train and which validate, fold by fold."""
        return self.root / "splits.json"

    @property
    def selection(self) -> Path:
        """Which configurations predict, what is done with their predictions, and why."""
        return self.root / "selection.json"

    @property
    def report(self) -> Path:
        """The page that tells all about the workspace."""
        return self.root / "report" / "index.html"

    @property
    def lock(self) -> Path:
        """Held by the process that plans."""
        return self.root / ".autoseg.lock"

    def preprocessed(self, configuration: str) -> Path:
        """Folder of the preprocessed cases."""
        return self.root / "preprocessed" / configuration

    def case(self, configuration: str, name: str) -> CaseFiles:
        """The files of one preprocessed case."""
        folder = self.preprocessed(configuration)
        return CaseFiles(
            image=folder / f"{name}.image.b2nd",
            label=folder / f"{name}.label.b2nd",
            locations=folder / f"{name}.locations.b2nd",
            record=folder / f"{name}.json",
        )

    def previous_map(self, configuration: str, name: str) -> MapFiles:
        """What the configuration's previous stage predicted of one case."""
        folder = self.preprocessed(configuration) / "previous"
        return MapFiles(map=folder / f"{name}.b2nd", record=folder / f"{name}.json")

    @property
    def trained_configurations(self) -> list[str]:
        """Those that have a fold, finished or not, whether the plan has them or not."""
        return sorted(path.name for path in (self.root / "models").glob("*") if folds_in(path))

    def models(self, configuration: str) -> Path:
        """Folder of a configuration's folds."""
        return self.root / "models" / configuration

    def fold(self, configuration: str, fold: int) -> FoldFolder:
        """Folder of one fold."""
        return FoldFolder(self.models(configuration) / f"fold_{fold}")

    def distillation(self, configuration: str) -> Path:
        """How a student compares with its teachers."""
        return self.models(configuration) / "distillation.json"

    def rate_test(self, configuration: str, fold: int) -> Path:
        """What the sweep of a fold's learning rate found; beside the fold's folder, with which it has nothing to do."""
        return self.models(configuration) / f"lr_find_{fold}.json"
