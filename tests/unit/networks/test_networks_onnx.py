"""Networks as ONNX graphs: the same logits as torch's for any batch and edges, checked, and without traces."""

import copy
import sys

import onnx
import pytest
import torch

from autoseg.errors import SettingError
from autoseg.networks.onnx_graph import largest_difference, num_channels, to_onnx
from autoseg.networks.unet import build_network

VOLUMES = ((1, 2, 2, 4, 4), (3, 2, 4, 16, 24), (2, 2, 8, 20, 12))
PICTURES = ((1, 2, 4, 4), (3, 2, 16, 24), (2, 2, 20, 12))
STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
RESIDUAL = {"n_conv_per_stage": None, "n_blocks_per_stage": (1, 1, 2), "n_conv_per_stage_decoder": (1, 1)}
PLAIN = {"n_conv_per_stage": (1, 1, 2), "n_conv_per_stage_decoder": (1, 1)}
NETWORKS = {
    "3d residual, batch norm, scse": (3, {**RESIDUAL, "norm": "batch", "attention": "scse"}),
    "3d residual": (3, RESIDUAL),
    "3d group norm, one head": (3, {**PLAIN, "norm": "group", "deep_supervision": False}),
    "2d layer norm, se": (2, {**PLAIN, "norm": "layer", "attention": "se"}),
    "2d": (2, PLAIN),
}


@pytest.fixture(scope="module")
def trained(build_configuration):
    """Callable: a network whose every parameter and statistic differs from where it starts."""

    def make(dimensions, **changes):
        strides = tuple(stride[-dimensions:] for stride in STRIDES)
        patch = (8, 16, 16)[-dimensions:]
        torch.manual_seed(0)
        network = build_network(build_configuration(patch, strides, channels=2, **changes), 2, 3)
        for weight in network.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        with torch.no_grad():
            network(torch.randn(4, 2, *patch) + 1)  # what batch norm remembers
        return network.eval()

    return make


@pytest.fixture(scope="module")
def exported(trained):
    """A network and its graph; kernels as of anisotropic data."""
    network = trained(3, kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)), **PLAIN)
    return network, to_onnx(network)


@pytest.mark.parametrize(("dimensions", "changes"), NETWORKS.values(), ids=NETWORKS)
def test_logits_are_those_of_torch(dimensions, changes, trained, one_thread):
    network = trained(dimensions, **changes)
    graph = to_onnx(network)
    for shape in VOLUMES if dimensions == 3 else PICTURES:
        assert largest_difference(network, graph, [shape]) < 1e-4


def test_logits_of_an_anisotropic_network_are_those_of_torch(exported):
    # The first of these ends in a bottleneck of one voxel.
    for shape in VOLUMES:
        assert largest_difference(*exported, [shape]) < 1e-4


def test_batch_and_edges_are_dynamic(exported):
    _, graph = exported
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits,) = model.graph.input, model.graph.output
    axes = [[axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim] for one in (image, logits)]
    assert axes == [["batch", 2, "2*z", "4*y", "4*x"], ["batch", 3, "2*z", "4*y", "4*x"]]


def test_a_graph_holds_no_path_of_the_machine(exported):
    _, graph = exported
    assert b".py" not in graph
    assert b"stack_trace" not in graph


def test_a_network_in_training_gives_the_same_file_and_stays_as_it_was(exported):
    network, graph = copy.deepcopy(exported[0]).train(), exported[1]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert to_onnx(network) == graph
    assert network.training
    assert all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_graph_of_other_weights_is_told_apart(exported):
    network, graph = exported
    assert num_channels(network) == 2
    other = copy.deepcopy(network)
    for weight in other.parameters():
        weight.data += 0.1
    assert largest_difference(other, graph, [(1, 2, 4, 8, 8)]) > 1e-2


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(package, exported, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingError, match=r"autoseg\[onnx\]") as caught:
        to_onnx(exported[0])
    assert package in caught.value.found
