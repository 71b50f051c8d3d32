"""A network as an ONNX graph: UNet -> bytes, and how far the graph's logits are from the network's."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch

from autoseg.errors import SettingError
from autoseg.networks.unet import UNet

IMAGE, LOGITS = "image", "logits"
OPSET = 18  # of December 2022, so that older runtimes read it
EDGE_NAMES = ("z", "y", "x")


def to_onnx(network: UNet) -> bytes:
    """The network as a graph for any batch, and for any edges that divide by the product of the strides.

    Parameters
    ----------
    network : UNet
        Trained; not changed.

    Returns
    -------
    bytes
        An ONNX model of float32 with the input ``image``, shape (batch, C, *edges), and the output ``logits``, shape
        (batch, K, *edges). Checked, optimized, shapes inferred; nothing in it tells of the machine that made it.

    Raises
    ------
    SettingError
        A package that this needs is not installed.
    """
    onnx, _ = _packages()
    network, divisors = _plain(network), _divisors(network)
    names = EDGE_NAMES[-len(divisors) :]
    # A derived dimension says that the edge divides.
    steps = [torch.export.Dim(name) for name in names]
    edges = [n * step if n > 1 else step for n, step in zip(divisors, steps, strict=True)]
    dynamic = {0: torch.export.Dim("batch"), **dict(enumerate(edges, start=2))}
    example = torch.zeros(2, num_channels(network), *(2 * n for n in divisors))
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=[IMAGE],
            output_names=[LOGITS],
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
    if program is None:
        message = "torch.onnx.export gave no program"
        raise RuntimeError(message)
    model = program.model_proto
    _forget_where(model)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@torch.inference_mode()
def largest_difference(network: UNet, graph: bytes, shapes: Sequence[tuple[int, ...]]) -> float:
    """How far onnxruntime's logits are from torch's, at most, on noise.

    Parameters
    ----------
    network : UNet
        In float32.
    graph : bytes
        Made of it by `to_onnx`.
    shapes : sequence of tuple of int
        (B, C, *edges) of each input.
    """
    _, onnxruntime = _packages()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    noise = torch.Generator().manual_seed(0)
    network, largest = _plain(network), 0.0
    for shape in shapes:
        image = torch.randn(shape, generator=noise)
        (logits,) = session.run([LOGITS], {IMAGE: image.numpy()})
        largest = max(largest, float((network(image) - torch.from_numpy(logits)).abs().max()))
    return largest


def num_channels(network: UNet) -> int:
    """Input channels."""
    return next(weight.shape[1] for weight in network.parameters() if weight.ndim > 2)


def _divisors(network: UNet) -> tuple[int, ...]:
    """By how much the encoder shrinks each axis."""
    return tuple(prod(steps) for steps in zip(*network.strides, strict=True))


def _plain(network: UNet) -> UNet:
    """A copy for prediction in float32 on the CPU, whatever the network is used for meanwhile."""
    return copy.deepcopy(network).to("cpu", torch.float32).requires_grad_(False).eval()


def _packages() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime.

    Raises
    ------
    SettingError
        One of them, or onnxscript, is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise SettingError(
            "writing ONNX needs the packages onnx, onnxscript and onnxruntime",
            found=str(error),
            hint="pip install 'autoseg[onnx]'",
        ) from error
    return onnx, onnxruntime


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's remarks about itself off stderr."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _forget_where(model: Any) -> None:  # noqa: ANN401 - onnx has no types
    """Remove what the exporter noted of files and lines: paths of this machine, and larger than the graph."""
    graph = model.graph
    parts = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer)
    for part in (model, graph, *(one for several in parts for one in several)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
