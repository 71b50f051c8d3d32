"""What tests of deployed models share: one graph for many ways of preparing a volume, since exporting takes seconds."""

from dataclasses import dataclass
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save_file

from autoseg.artifacts.base import write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.onnx_model import OnnxFold
from autoseg.deploy.stage import record_of
from autoseg.layout import Workspace
from autoseg.networks.onnx_graph import to_onnx
from autoseg.networks.unet import UNet, build_network

SMALL = {"n_conv_per_stage": (1, 1), "n_conv_per_stage_decoder": (1,), "n_stages": 2}
LABELS = {"background": 0, "a": 1, "b": 2}


@dataclass(frozen=True)
class Trained:
    """A fold whose weights are random, loaded."""

    manifest: TrainedModel
    network: UNet
    weights_sha256: str = "0"


@pytest.fixture(scope="session")
def trained_of(build_plan, build_configuration):
    """Callable: a fold of two channels and three outputs; 3D with patch (4, 8, 8), or 2D with (8, 8)."""

    def make(dimensions=3, *, fold=0, plan=None, naming=None, file_values=(), **changes):
        patch, strides = (4, 8, 8)[-dimensions:], ((1,) * dimensions, (2,) * dimensions)
        configuration = build_configuration(patch, strides, channels=2, **{**SMALL, **changes})
        name = "3d_fullres" if dimensions == 3 else "2d"
        manifest = TrainedModel(
            inputs_sha256="0",
            data_sha256="0",
            plan=build_plan({name: configuration}, **{"channels": ("A", "B"), "labels": LABELS, **(plan or {})}),
            settings=(),
            configuration_name=name,
            fold=fold,
            cases=None,
            naming=naming or Naming(image_suffixes=("_0000.nii.gz", "_0001.nii.gz"), label_suffix=".nii.gz"),
            file_values=file_values,
            step=StepStyle(precision="float32"),
            step_seconds={},
            num_parameters=1,
            device="cpu",
            autoseg_version="0",
            torch_version="0",
            finished=True,
        )
        torch.manual_seed(fold)
        return Trained(manifest, build_network(configuration, 2, 3).eval())

    return make


@pytest.fixture(scope="session")
def graph_of(trained_of):
    """Callable: the graph of a fold of 3 or 2 dimensions; made once."""
    made = {}

    def get(dimensions, fold):
        if (dimensions, fold) not in made:
            made[dimensions, fold] = to_onnx(trained_of(dimensions, fold=fold).network)
        return made[dimensions, fold]

    return get


@pytest.fixture
def deployed(tmp_path, trained_of, graph_of):
    """Callable: the same folds as a workspace and as a folder with model.json; as `trained_of`, with `folds`."""

    def make(dimensions=3, *, folds=(0,), **changes):
        workspace, folder = Workspace(tmp_path / "workspace"), tmp_path / "deployed"
        folder.mkdir(exist_ok=True)
        written = []
        for number in folds:
            fold = trained_of(dimensions, fold=number, **changes)
            place, graph = workspace.fold(fold.manifest.configuration_name, number), graph_of(dimensions, number)
            write(place.manifest, fold.manifest)
            save_file(fold.network.state_dict(), place.weights)
            (folder / f"fold_{number}.onnx").write_bytes(graph)
            written.append(
                OnnxFold(
                    fold=number,
                    file=f"fold_{number}.onnx",
                    sha256=sha256(graph).hexdigest(),
                    weights_sha256="0",
                    largest_difference=0,
                )
            )
        write(folder / "model.json", record_of(fold.manifest, tuple(written)))
        return workspace, folder

    return make
