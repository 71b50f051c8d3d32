"""What a student learns from beside the labels: what trained networks, together, say of the patch it sees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.artifacts.model import Teaching
from autoseg.train.loss_terms import Extents, mean_overlap


@dataclass(frozen=True, slots=True)
class Teacher:
    """Trained networks whose mean logits a student imitates.

    Attributes
    ----------
    networks : sequence of callable
        Each maps images, float32, shape (B, C, *patch), on their device, to logits, shape (B, K, *patch).
    record : Teaching
        Which they are, and how much they count.
    exclusive : bool
        Whether the outputs are classes that exclude each other, not regions.
    """

    networks: Sequence[Callable[[Tensor], Tensor]]
    record: Teaching
    exclusive: bool

    def loss(self, images: Tensor, logits_bkzyx: Tensor) -> Tensor:
        """How far the student's answer is from theirs.

        Parameters
        ----------
        images : Tensor of float32, shape (B, C, *patch)
            As the student saw them: augmented, so that teachers and student look at the same thing.
        logits_bkzyx : Tensor of any float, shape (B, K, *patch)
            The student's, at full resolution.

        Returns
        -------
        Tensor of float32, shape ()
            Kullback-Leibler divergence of softened distributions, mean over voxels (and regions), times the square
            of the temperature, which keeps the size of its gradient; plus 1, minus the overlap of the two answers.
            0 where they are the same.

        Notes
        -----
        The divergence is from Hinton et al. 2015; that teachers look at the very patch, augmentation and all, and for
        long, is what Beyer et al. 2022 found to matter most. The overlap is the soft Dice of the labels' loss for
        targets between 0 and 1, as in Wang and Blaschko 2023 (Dice semimetric losses): what both give an output in
        common, over their sizes; like that it leaves the background out, and its best is where the two agree. Without
        it small structures, which are few of the voxels, are learned late.
        """
        temperature = self.record.temperature
        theirs, own = self._mean_logits(images), logits_bkzyx.float()
        soft, softened = theirs / temperature, own / temperature
        if self.exclusive:
            truth = functional.log_softmax(soft, 1)
            divergence = (truth.exp() * (truth - functional.log_softmax(softened, 1))).sum(1).mean()
            q, p = theirs.softmax(1)[:, 1:], own.softmax(1)[:, 1:]
        else:
            # Of a region and what is outside of it.
            sure, inside, outside = soft.sigmoid(), functional.logsigmoid(softened), functional.logsigmoid(-softened)
            ideal = sure * functional.logsigmoid(soft) + (1 - sure) * functional.logsigmoid(-soft)
            divergence = (ideal - sure * inside - (1 - sure) * outside).mean()
            q, p = theirs.sigmoid(), own.sigmoid()
        space = tuple(range(2, p.ndim))
        extents = Extents(torch.minimum(p, q).sum(space), p.sum(space), q.sum(space))
        return divergence * temperature**2 + 1 - mean_overlap(extents, 0.5, 0.5, pooled=True)

    @torch.no_grad()
    def _mean_logits(self, images: Tensor) -> Tensor:
        total = self.networks[0](images).float()
        for network in self.networks[1:]:
            total = total + network(images).float()
        return total / len(self.networks)
