"""Folds that resemble each other: units of cases and what their labels measure -> the fold of each unit."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# How much a whole fold's worth of size ranks counts beside the presence of a label.
SIZE_WEIGHT = 0.5
# Of the sum of squares, for two units to change places; without it rounding would go on for ever.
LEAST_GAIN = 0.01
MOST_SWEEPS = 10


def deal(
    units: Sequence[Sequence[str]], label_voxels: Mapping[str, Mapping[str, int]], num_folds: int, seed: int
) -> list[int]:
    """Deal units to folds, balancing how many cases each fold has, with which labels, and how large these are.

    Parameters
    ----------
    units : sequence of sequences of str
        Names of the cases that stay together.
    label_voxels : mapping of str to mapping of str to int
        For each case the voxels of each foreground label, by name; empty: only the number of cases is balanced.
    num_folds : int
        At most the number of units.
    seed : int
        Decides between what is equally good.

    Returns
    -------
    list of int
        The fold of each unit. Every fold has one; where units are single cases, sizes differ by one at most.

    Notes
    -----
    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, On the stratification of multi-label data): the
    label that the fewest cases left have is dealt first, each case to the fold that has it least often. Differs from
    the paper: cases of a label are dealt by size, so that each fold gets of the large and of the small ones; ties go
    to the fold that holds least of all that the unit has; no fold grows beyond its share of cases while another has
    room; units may be several cases; and in the end pairs of units change places as long as that lowers the sum of
    squares of what the folds hold.
    """
    # Of NumPy's generators the one whose stream never changes between versions.
    rng = np.random.RandomState(seed)
    table, num_labels = _measure(units, label_voxels)
    order, tie = rng.permutation(len(units)), rng.permutation(num_folds)
    share, with_one_more = divmod(int(table[:, 0].sum()), num_folds)
    held = np.zeros((num_folds, table.shape[1]))
    folds = np.full(len(units), -1)
    while (left := order[folds[order] < 0]).size:
        counts = table[left, 1 : 1 + num_labels].sum(axis=0)
        rarest = 1 + int(np.where(counts > 0, counts, np.inf).argmin()) if counts.any() else 0
        size = rarest + num_labels if rarest else 0
        mine = left[table[left, rarest] > 0]
        for unit in mine[np.lexsort((-table[mine, size], -table[mine, rarest]))]:
            room = share + (np.count_nonzero(held[:, 0] > share) < with_one_more)
            full = held[:, 0] + table[unit, 0] > room
            fold = np.lexsort((tie, held @ table[unit], held[:, rarest], full))[0]
            held[fold] += table[unit]
            folds[unit] = fold
    _swap(table, held, folds)
    return [int(fold) for fold in folds]


def _measure(
    units: Sequence[Sequence[str]], label_voxels: Mapping[str, Mapping[str, int]]
) -> tuple[NDArray[np.float64], int]:
    """A row a unit: its cases, its cases with each label, and their ranks by size; and the number of labels."""
    names = [name for unit in units for name in unit]
    labels = sorted({label for voxels in label_voxels.values() for label in voxels})
    columns, sizes = [np.ones(len(names))], []
    for label in labels:
        voxels = np.array([label_voxels[name].get(label, 0) for name in names])
        different = np.unique(voxels[voxels > 0])
        columns.append((voxels > 0).astype(np.float64))
        sizes.append(SIZE_WEIGHT * np.searchsorted(different, voxels, side="right") / max(1, len(different)))
    of_cases = np.stack([*columns, *sizes], axis=1)
    table = np.zeros((len(units), of_cases.shape[1]))
    np.add.at(table, np.repeat(np.arange(len(units)), [len(unit) for unit in units]), of_cases)
    return table, len(labels)


def _swap(table: NDArray[np.float64], held: NDArray[np.float64], folds: NDArray[np.int_]) -> None:
    """Exchange pairs of units, in place, while the sum of squares of what the folds hold gets smaller."""
    squares, rows = (table * table).sum(axis=1), np.arange(len(table))
    overlap = table @ held.T
    for _ in range(MOST_SWEEPS):
        changed = False
        for unit, row in enumerate(table):
            fold = folds[unit]
            # Half the change of the sum when `unit` and each other unit change places.
            change = overlap[:, fold] - overlap[rows, folds] - overlap[unit, fold] + overlap[unit, folds]
            change += squares + squares[unit] - 2 * (table @ row)
            change[folds == fold] = 0
            other = int(change.argmin())
            if change[other] < -LEAST_GAIN:
                two = [fold, folds[other]]
                held[two] += np.stack([table[other] - row, row - table[other]])
                overlap[:, two] = table @ held[two].T
                folds[unit], folds[other] = folds[other], fold
                changed = True
        if not changed:
            return
