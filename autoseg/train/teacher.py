"""What a student learns from beside the labels: what trained networks, together, say of the patch it sees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.artifacts.model import Teaching


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
            of the temperature, which keeps the size of its gradient.

        Notes
        -----
        Hinton et al. 2015; that teachers look at the very patch, augmentation and all, and for long, is what Beyer et
        al. 2022 found to matter most.
        """
        temperature = self.record.temperature
        theirs, own = self._mean_logits(images) / temperature, logits_bkzyx.float() / temperature
        if self.exclusive:
            truth = functional.log_softmax(theirs, 1)
            divergence = (truth.exp() * (truth - functional.log_softmax(own, 1))).sum(1).mean()
        else:
            # Of a region and what is outside of it.
            p, inside, outside = theirs.sigmoid(), functional.logsigmoid(own), functional.logsigmoid(-own)
            ideal = p * functional.logsigmoid(theirs) + (1 - p) * functional.logsigmoid(-theirs)
            divergence = (ideal - p * inside - (1 - p) * outside).mean()
        return divergence * temperature**2

    @torch.no_grad()
    def _mean_logits(self, images: Tensor) -> Tensor:
        total = self.networks[0](images).float()
        for network in self.networks[1:]:
            total = total + network(images).float()
        return total / len(self.networks)
