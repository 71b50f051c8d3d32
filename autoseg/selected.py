"""selection.json at work: which models predict by it, and how their predictions become label maps."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.artifacts.base import digest, read
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import foreground
from autoseg.artifacts.selection import Rule, Selection, Way
from autoseg.ensemble.decode import decode
from autoseg.errors import SettingError
from autoseg.layout import Workspace, folds_in
from autoseg.postprocess.components import apply_rules, check_rules, voxel_mm3
from autoseg.predict.models import LoadedModel, together
from autoseg.trained import load_trained

log = logging.getLogger(__name__)
RULES = "1"  # to be raised when the same selection would give other label maps


@dataclass(frozen=True, slots=True)
class Selected:
    """How a selection makes label maps; for the process that does it.

    Attributes
    ----------
    way : Way
    rules : tuple of Rule
    """

    way: Way
    rules: tuple[Rule, ...]

    @property
    def stamp(self) -> str:
        """Of all that shapes label maps, beside the weights."""
        return digest(RULES, self.way, *self.rules)

    @property
    def needs_probabilities(self) -> bool:
        """Not where the logits of one configuration say which class is the most likely."""
        return len(self.way.configurations) > 1 or self.way.decoding != "argmax"

    def decode(self, levels: Sequence[Any], class_order: tuple[int, ...]) -> NDArray[np.integer]:
        """Labels as the network counts them, from the probabilities of each configuration."""
        return decode(levels, self.way.decoding, class_order)

    def tidy(
        self, label_zyx: NDArray[np.integer], labels: Mapping[str, int | tuple[int, ...]], geometry: Geometry
    ) -> NDArray[np.integer]:
        """The label map without the components that the rules remove."""
        return apply_rules(label_zyx, self.rules, labels, voxel_mm3(geometry))


def find_selection(
    workspace: Workspace, configuration: str | None = None, folds: Sequence[int] | None = None
) -> Selection | None:
    """What `select` chose, unless configuration or folds are named.

    Raises
    ------
    ArtifactError
        selection.json can't be read.
    """
    if not workspace.selection.exists():
        return None
    if configuration is not None or folds is not None:
        log.info("configuration or folds are named: %s is not used", workspace.selection)
        return None
    return read(workspace.selection, Selection)


def selected_models(workspace: Workspace, selection: Selection, device: torch.device) -> list[LoadedModel]:
    """The folds of the selected configurations.

    Raises
    ------
    SettingError
        One is not trained, or was trained anew since it was judged, or the first stage of a cascade was; or a rule is
        about a label that is not there.
    """
    again = f"autoseg select -w {workspace.root}, or name a --configuration"
    for name in selection.configurations:
        there = folds_in(workspace.models(name))
        missing = [fold for fold in selection.folds if fold not in there]
        if missing:
            raise SettingError(
                "a selected fold is not trained",
                where=f"{workspace.selection}: {name}",
                found=", ".join(map(str, missing)),
                allowed=", ".join(map(str, there)) or "none is trained",
                hint=again,
            )
        judged = selection.weights_sha256.get(name, {})
        since = [fold for fold, folder in there.items() if folder.weights.exists() and str(fold) not in judged]
        if since:
            log.warning("%s: fold %s had no part in the selection", name, ", ".join(map(str, since)))
    models = together([load_trained(workspace, name, selection.folds, device) for name in selection.configurations])
    _check_weights(models, selection, again)
    check_rules(selection.rules, foreground(models[0].plan.labels), where=f"{workspace.selection}, rules")
    return models


def _check_weights(models: Sequence[LoadedModel], selection: Selection, again: str) -> None:
    """Hold folds, and those of the first stage of a cascade, against what was judged.

    Raises
    ------
    SettingError
        A fold has other weights, or the first stage other folds.
    """
    second = next((model for model in models if model.previous), None)
    previous = () if second is None else second.previous
    for model in (*models, *previous):
        name, fold = model.manifest.configuration_name, model.manifest.fold
        judged = selection.weights_sha256.get(name, {}).get(str(fold))
        if judged not in (None, model.weights_sha256):
            raise SettingError(
                "a fold was trained anew since the selection was made", where=f"{name}, fold {fold}", hint=again
            )
    # All folds of the first stage predict, whichever are selected of the second.
    if second is not None and second.manifest.configuration_name in selection.weights_sha256:
        name = previous[0].manifest.configuration_name
        folds, known = [str(model.manifest.fold) for model in previous], selection.weights_sha256.get(name, {})
        if sorted(folds) != sorted(known):
            raise SettingError(
                "the first stage of a cascade has other folds than when the selection was made",
                where=name,
                found=", ".join(folds),
                allowed=", ".join(known) or None,
                hint=again,
            )
