"""Batches of patches, read here or in worker processes: batchgenerators' loader around our sampling."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from batchgenerators.dataloading.data_loader import DataLoader
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from numpy.typing import NDArray

from autoseg.artifacts.augmentation import Augmentation
from autoseg.errors import AutosegError
from autoseg.pool import follow_parent
from autoseg.train.classic import farthest_edges, transform
from autoseg.train.draws import Draws, draw, draw_map_changes, no_draws
from autoseg.train.previous import change_map
from autoseg.train.sampling import RareClasses, TrainingCase, choose_corner, forced_foreground, read_region


@dataclass(frozen=True, slots=True)
class Batch:
    """Regions cut from cases, and what is to be done to them.

    Attributes
    ----------
    cases : tuple of str
        Name of each sample's case.
    images : list of B ndarrays of float32, shape (C, *source edges)
    labels : list of B ndarrays of int16, shape (*source edges)
    draws : Draws
    moved_values : tuple of int
        Label values that occur in the samples that are moved, in `previous` too.
    kept : range or None
        The samples to train on, where others are there for being mixed with them alone; None: all.
    previous : list of B ndarrays of int16, shape (*source edges)
        What the previous stage of a cascade predicted; empty without one.
    num_previous : int
        Its labels are 1 to this.
    """

    cases: tuple[str, ...]
    images: list[NDArray[np.float32]]
    labels: list[NDArray[np.int16]]
    draws: Draws
    moved_values: tuple[int, ...] = ()
    kept: range | None = None
    previous: list[NDArray[np.int16]] = field(default_factory=list)
    num_previous: int = 0


@dataclass(frozen=True, slots=True)
class BatchRecipe:
    """Everything that makes a batch, but for its number.

    Attributes
    ----------
    seeds : tuple of int
        Run, fold and stream: with the batch's number they seed its generator.
    augmentation : Augmentation or None
        None: none.
    share : range or None
        The samples that this process makes; None: all.
    rare : RareClasses or None
        Of the cases that batches are made of, in their order; None: all cases and classes are equally likely.
    num_previous : int
        Labels that the previous stage of a cascade predicts; 0 without one.
    """

    patch: tuple[int, ...]
    batch_size: int
    num_channels: int
    foreground_share: float
    mirror_axes: tuple[int, ...]
    augmentation: Augmentation | None
    seeds: tuple[int, ...]
    rare: RareClasses | None = None
    share: range | None = None
    num_previous: int = 0

    @property
    def classic(self) -> Augmentation | None:
        """The augmentation, if it is done while loading."""
        there = self.augmentation is not None and self.augmentation.backend == "batchgenerators"
        return self.augmentation if there else None


def make_batch(cases: Sequence[TrainingCase], recipe: BatchRecipe, number: int) -> Batch:
    """Batch `number`, or a share of it; the same whoever makes it and whenever."""
    rng = np.random.default_rng((*recipe.seeds, number))
    patch = recipe.patch
    classic = recipe.classic
    if recipe.augmentation is None or classic is not None:
        draws = no_draws(recipe.batch_size, recipe.num_channels, patch)
    else:
        draws = draw(rng, recipe.augmentation, recipe.batch_size, recipe.num_channels, patch, recipe.mirror_axes)
    if recipe.augmentation is not None and recipe.num_previous:
        changes = draw_map_changes(rng, recipe.augmentation, recipe.batch_size, recipe.num_previous)
        draws = replace(draws, map_changes=changes)
    flat = len(patch) == 2
    forced = forced_foreground(recipe.batch_size, recipe.foreground_share)
    picks = rng.integers(len(cases), size=recipe.batch_size)
    if recipe.rare is not None:
        picks[forced] = rng.choice(len(cases), size=forced.sum(), p=recipe.rare.case_probabilities)
    class_weights = None if recipe.rare is None else recipe.rare.class_weights
    share = range(recipe.batch_size) if recipe.share is None else recipe.share
    # These change samples together: other shares are needed too.
    whole = classic is not None or draws.mixes
    read = range(recipe.batch_size) if whole else share
    names, images, labels, previous = [], [], [], []
    for i, pick in enumerate(picks):
        case = cases[int(pick)]
        patch_zyx = (1, *patch) if flat else patch
        corner = choose_corner(
            rng,
            case.label_zyx.shape,
            patch_zyx,
            case.locations,
            foreground=bool(forced[i]),
            class_weights=class_weights,
        )
        if i not in read:  # its numbers had to be drawn all the same
            continue
        source = draws.source_edges(i, patch) if classic is None else farthest_edges(classic, patch)
        edges = (1, *source) if flat else source
        start = [at - (wide - edge) // 2 for at, wide, edge in zip(corner, edges, patch_zyx, strict=True)]
        image = read_region(case.image_czyx, start, edges, 0).astype(np.float32, copy=False)
        label = read_region(case.label_zyx, start, edges, -1).astype(np.int16, copy=False)
        names.append(case.name)
        images.append(image[:, 0] if flat else image)
        labels.append(label[0] if flat else label)
        if case.previous_zyx is not None:
            predicted = read_region(case.previous_zyx, start, edges, -1).astype(np.int16, copy=False)
            largest = 0.0 if recipe.augmentation is None else recipe.augmentation.previous_removal_largest * prod(patch)
            predicted = predicted[0] if flat else predicted
            previous.append(change_map(predicted, draws.map_changes.get(i, ()), largest))
    if classic is not None:
        seed = int(rng.integers(2**32))
        images, labels, previous = transform(images, labels, classic, patch, recipe.mirror_axes, seed, previous)
    if whole and not draws.mixes:
        mine = slice(share.start, share.stop)
        names, images, labels, previous = names[mine], images[mine], labels[mine], previous[mine]
    kept = share if draws.mixes and len(share) < recipe.batch_size else None
    draws = draws if draws.mixes else draws.of(share)
    values = values_in([maps[i] for maps in (labels, previous) if maps for i in np.flatnonzero(draws.moved)])
    return Batch(
        tuple(names),
        images,
        labels,
        draws,
        moved_values=values,
        kept=kept,
        previous=previous,
        num_previous=recipe.num_previous,
    )


def noise_batch(draws: Draws, patch: tuple[int, ...], shape_ck: tuple[int, int], seed: int) -> Batch:
    """A batch of noise, for measuring what a step takes.

    Parameters
    ----------
    draws : Draws
    patch : tuple of int
    shape_ck : tuple of int
        Number of channels, and of classes.
    seed : int
    """
    rng = np.random.default_rng(seed)
    channels, classes = shape_ck
    samples = range(len(draws.moved))
    edges = [draws.source_edges(sample, patch) for sample in samples]
    labels = [rng.integers(max(2, classes), size=each).astype(np.int16) for each in edges]
    return Batch(
        cases=tuple("noise" for _ in samples),
        images=[rng.standard_normal((channels, *each), dtype=np.float32) for each in edges],
        labels=labels,
        draws=draws,
        moved_values=values_in([labels[sample] for sample in np.flatnonzero(draws.moved)]),
    )


def values_in(labels: Sequence[NDArray[np.int16]]) -> tuple[int, ...]:
    """Values that occur in label maps, in order."""
    seen = np.zeros(2**16, dtype=bool)
    for label in labels:
        seen[label] = True  # a negative value counts from the end
    values = np.flatnonzero(seen)
    return tuple(sorted(int(value) for value in np.where(values < 2**15, values, values - 2**16)))


class PatchLoader(DataLoader):  # type: ignore[misc]  # batchgenerators is not typed
    """batchgenerators' loader over `make_batch`; workers take turns, so the order never depends on their number."""

    def __init__(self, cases: Sequence[TrainingCase], recipe: BatchRecipe, first: int, num_workers: int) -> None:
        super().__init__(cases, recipe.batch_size, max(1, num_workers), infinite=True, shuffle=False)
        self.recipe = recipe
        self.first = first
        self.made = 0

    def set_thread_id(self, thread_id: int) -> None:
        """Called first in each worker: from here on it ends when the training process does, even by SIGKILL."""
        super().set_thread_id(thread_id)
        threading.Thread(target=follow_parent, daemon=True).start()

    def generate_train_batch(self) -> dict[str, Batch | AutosegError]:
        """The next batch of this worker."""
        number = self.first + self.thread_id + self.made * self.number_of_threads_in_multithreaded
        self.made += 1
        try:
            return {"batch": make_batch(self._data, self.recipe, number)}
        except AutosegError as error:
            # Raised where it is taken out: in a worker it would end as a bare traceback.
            return {"batch": error}


class Batches:
    """An endless run of batches from number `first` on; closing it ends the workers."""

    def __init__(self, cases: Sequence[TrainingCase], recipe: BatchRecipe, *, first: int, num_workers: int) -> None:
        loader = PatchLoader(cases, recipe, first, num_workers)
        if num_workers:
            self._source = MultiThreadedAugmenter(loader, None, num_workers, num_cached_per_queue=2)
        else:
            self._source = SingleThreadedAugmenter(loader, None)

    def __next__(self) -> Batch:
        """The next batch."""
        try:
            batch: Batch | AutosegError = next(self._source)["batch"]
        except RuntimeError as error:
            raise AutosegError(
                "a worker that reads patches died",
                found=str(error),
                hint="--jobs 1 reads with a single one; then see memory",
            ) from error
        if isinstance(batch, AutosegError):
            raise batch
        return batch

    def close(self) -> None:
        """End the worker processes."""
        if isinstance(self._source, MultiThreadedAugmenter):
            self._source._finish()
