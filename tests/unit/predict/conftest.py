"""What tests of prediction share: folds as training leaves them."""

import pytest
import torch
from safetensors.torch import save_file

from autoseg.artifacts.base import write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.splits import Fold
from autoseg.layout import Workspace
from autoseg.networks.unet import build_network


@pytest.fixture
def train_fold(tmp_path, build_plan, build_configuration):
    """Callable: a fold as training leaves it, with weights of a seed."""

    def make(fold, seed=None, **changes):
        folder = Workspace(tmp_path / "w").fold("3d_fullres", fold)
        fields = {
            "inputs_sha256": f"fold {fold}",
            "data_sha256": "0",
            "plan": build_plan(
                {"3d_fullres": build_configuration((4, 8, 8))}, labels={"background": 0, "a": 1, "b": 2}
            ),
            "settings": (),
            "configuration_name": "3d_fullres",
            "fold": fold,
            "cases": Fold(training=("x",), validation=("y",)),
            "naming": Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
            "step": StepStyle(precision="float32"),
            "step_seconds": {},
            "num_parameters": 1,
            "device": "cpu",
            "autoseg_version": "0",
            "torch_version": "0",
            "iterations": 10,
            "finished": True,
        }
        manifest = TrainedModel(**{**fields, **changes})
        torch.manual_seed(fold if seed is None else seed)
        network = build_network(manifest.configuration, 1, manifest.plan.num_classes)
        write(folder.manifest, manifest)
        save_file(network.state_dict(), folder.weights)
        return folder

    return make
