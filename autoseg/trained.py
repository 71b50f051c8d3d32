"""The trained folds of a workspace, found and loaded."""

from collections.abc import Sequence

import torch

from autoseg.artifacts.plan import PREFERRED
from autoseg.errors import SettingError
from autoseg.layout import FoldFolder, Workspace, folds_in
from autoseg.predict.models import LoadedModel, behind, load_models


def load_trained(
    workspace: Workspace, configuration: str | None, folds: Sequence[int] | None, device: torch.device
) -> list[LoadedModel]:
    """The folds asked for, as `trained_folds`; in a cascade with every trained fold of the first stage.

    Raises
    ------
    SettingError
        None is trained, one is not trained to its end, or they don't fit together.
    ArtifactError
        A file can't be read.
    """
    models = load_models(trained_folds(workspace, configuration, folds), device)
    before = models[0].configuration.previous_stage
    if before is None:
        return models
    return behind(load_models(trained_folds(workspace, before, None), device), models)


def trained_folds(workspace: Workspace, configuration: str | None, folds: Sequence[int] | None) -> list[FoldFolder]:
    """The folds asked for, or every trained one; a model folder needs no plan beside it.

    Raises
    ------
    SettingError
        None is trained, or one of them is not.
    """
    names = (configuration,) if configuration else PREFERRED
    for name in names:
        trained = [folder for folder in folds_in(workspace.models(name)).values() if folder.weights.exists()]
        if trained:
            return trained if folds is None else [_named(workspace, name, fold, trained) for fold in folds]
    raise SettingError(
        "no fold is trained yet",
        where=str(workspace.root / "models"),
        found=configuration,
        hint=f"autoseg train 0 -w {workspace.root}{f' --configuration {configuration}' if configuration else ''}",
    )


def _named(workspace: Workspace, configuration: str, fold: int, trained: Sequence[FoldFolder]) -> FoldFolder:
    """The fold of that number."""
    folder = workspace.fold(configuration, fold)
    if folder.root not in [each.root for each in trained]:
        raise SettingError(
            "a fold is not trained",
            where=str(workspace.models(configuration)),
            found=f"fold {fold}",
            allowed=", ".join(each.root.name.removeprefix("fold_") for each in trained),
        )
    return folder
