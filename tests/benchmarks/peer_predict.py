"""nnU-Net v2's prediction from a model folder, but with weights and sums of logits in single precision.

usage: the arguments of nnUNetv2_predict_from_modelfolder

nnU-Net (2.8.1) weights logits and adds them up in half precision. Towards a volume's corners the weights of its only
windows come near the least number that half precision has, and means are off by tenths. Runs in an environment with
nnU-Net.
"""

import torch
from nnunetv2.inference import predict_from_raw_data as prediction
from torch import Tensor

LEAST = 6e-8  # what nnU-Net's weights of 0 become, which are 0 for being less
rounded = prediction.compute_gaussian


def gaussian(*shape: object, **options: object) -> Tensor:
    """The weights of a window before they are rounded."""
    return rounded(*shape, **options, dtype=torch.float32).clamp(min=LEAST)


if __name__ == "__main__":
    gaussian.cache_clear = rounded.cache_clear
    prediction.compute_gaussian = gaussian
    # The type of sums, by its name.
    torch.half = torch.float32
    prediction.predict_entry_point_modelfolder()
