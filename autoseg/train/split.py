"""Which cases validate in which fold."""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import KFold

from autoseg.artifacts.splits import Fold
from autoseg.errors import DatasetError


def k_folds(case_names: Sequence[str], num_folds: int, seed: int) -> tuple[Fold, ...]:
    """Shuffled k-fold cross-validation over the sorted names.

    Raises
    ------
    DatasetError
        Fewer cases than folds.

    Notes
    -----
    The same folds as nnU-Net's (KFold with shuffling, seed 12345), so that published per-case results compare.
    """
    names = np.array(sorted(case_names))
    if len(names) < num_folds:
        raise DatasetError(
            "there are fewer cases than folds",
            found=f"{len(names)} cases, {num_folds} folds",
            hint=f"--set training.num_folds={max(2, len(names))}" if len(names) >= 2 else "add cases",
        )
    split = KFold(n_splits=num_folds, shuffle=True, random_state=seed).split(names)
    return tuple(
        Fold(training=tuple(str(n) for n in names[train]), validation=tuple(str(n) for n in names[held_out]))
        for train, held_out in split
    )
