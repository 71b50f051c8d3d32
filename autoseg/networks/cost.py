"""What a training step costs in memory, from the configuration alone: nothing is allocated, torch is not loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Attention, Configuration, Plan

FLOAT_BYTES = 4
MASK_BYTES = 1
MIXED = StepStyle(precision="bfloat16")
INDEX_BYTES = 8
# Channels of the squeezed layer of an attention block: one in so many.
SQUEEZE = 2
CLEARLY = 0.9
VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes that tensors take at the worst moment of a training step.

    Attributes
    ----------
    parameter_bytes, gradient_bytes, optimizer_bytes : int
        Weights, their gradients, and the optimizer's momentum, each float32.
    input_bytes : int
        The batch, on the device: float32 images and int64 labels.
    activation_bytes : int
        What the layers and the loss keep for the way back.
    peak_bytes : int
        All tensors at the worst moment, those that come and go included; less than the sum of the parts where these
        don't come together.
    """

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    input_bytes: int
    activation_bytes: int
    peak_bytes: int


def training_step_memory(
    configuration: Configuration,
    num_channels: int,
    num_classes: int,
    style: StepStyle,
    *,
    on_cpu: bool = True,
    whole_loss: bool = False,
    cores: int = 1,
) -> StepMemory:
    """Memory of a training step of `autoseg.networks.unet.UNet`.

    Parameters
    ----------
    configuration : Configuration
    num_channels, num_classes : int
        Inputs and outputs of the network.
    style : StepStyle
        In which precision, and whether sample by sample.
    on_cpu : bool
        On CPUs decoder stages join by a sum of two convolutions, elsewhere by concatenation; and oneDNN takes
        memory for weight gradients.
    whole_loss : bool
        The loss is taken of the whole batch, as batch Dice and an ignore label ask for: the maps of all samples are
        kept until then, even where they pass through the network one after the other.
    cores : int
        On which samples pass side by side, where the style says that they do.

    Returns
    -------
    StepMemory

    Notes
    -----
    The step is replayed as autograd does it: on the way forward each operation adds what it keeps, on the way back
    operations go in reverse order, each making the gradient of its inputs before it lets go of what it kept. What
    libraries take for themselves (cuDNN's and oneDNN's workspace) and what allocators hold back is not counted.
    docs/explanation/memory.md compares these figures with measured ones.
    """
    samples = 1 if style.sample_by_sample else configuration.batch_size
    tape = _Tape(VALUE_BYTES[style.precision], samples, channels_last=style.channels_last, on_cpu=on_cpu)
    passes = configuration.batch_size // samples
    heads = _network(tape, configuration, num_channels, num_classes)
    weights = FLOAT_BYTES * tape.num_weights
    each = [heads]
    if whole_loss and passes > 1:
        tape.first_pass = False
        each += [_network(tape, configuration, num_channels, num_classes) for _ in range(passes - 1)]
        tape.samples = configuration.batch_size
        heads = [_joined_samples(tape, level) for level in zip(*each, strict=True)]
    _losses(tape, heads)
    for head in (*heads, *(head for sample in each for head in sample)):
        tape.let_go(_source(head))
    activations = tape.kept_bytes
    apart = passes > 1 and not whole_loss
    if style.side_by_side and apart and 1 < cores <= configuration.batch_size:
        # Each core adds up what its samples gave, all weights at a time.
        there = weights if configuration.batch_size >= 2 * cores else 0
        in_step = tape.peak_backward_bytes(gradient_bytes=there, most=there + weights)
        in_passes = cores * max(in_step, tape.peak_forward_bytes)
    else:
        # The gradients of the first sample are there when the second's are made.
        in_step = tape.peak_backward_bytes(gradient_bytes=weights if apart else 0, most=weights)
        in_passes = max(in_step, tape.peak_forward_bytes)
    # Weight decay and momentum each make a new gradient, parameter by parameter.
    in_update = weights + 2 * FLOAT_BYTES * tape.most_weights
    voxels = prod(configuration.patch_size) * configuration.batch_size
    inputs = voxels * (FLOAT_BYTES * num_channels + INDEX_BYTES)
    return StepMemory(
        parameter_bytes=weights,
        gradient_bytes=weights,
        optimizer_bytes=weights,
        input_bytes=inputs,
        activation_bytes=activations,
        peak_bytes=2 * weights + inputs + max(in_passes, in_update),
    )


def planned_step_memory(plan: Plan, configuration: Configuration) -> StepMemory:
    """Memory of a training step of one of a plan's networks, in mixed precision on a GPU."""
    return training_step_memory(configuration, plan.num_inputs(configuration), plan.num_classes, MIXED, on_cpu=False)


def neighbours(kernel: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """How many voxels of the small map, along each axis, a new voxel is made of."""
    return tuple(-(-(edge + step - 1) // step) for edge, step in zip(kernel, stride, strict=True))


def merging_pays(edges: Sequence[int], samples: int, enlarge: Sequence[int], weight: Sequence[int]) -> bool:
    """Whether the upsampling and convolution as one take clearly fewer products than one after the other.

    Parameters
    ----------
    edges : sequence of int, length d
        Of the small map.
    samples : int
        Of the batch.
    enlarge, weight : sequence of int
        Shapes of the weights, as in `convolve_enlarged`.
    """
    (inputs, middle, *stride), (outputs, _, *kernel) = enlarge, weight
    if any(edge > 1 and (edge != 3 or n * step < 2) for edge, n, step in zip(kernel, edges, stride, strict=True)):
        # A border is one voxel wide, and not both at once.
        return False
    reach = neighbours(kernel, stride)
    small, box = prod(edges), prod(stride)
    boxes = prod(edge + n - 1 for edge, n in zip(edges, reach, strict=True))
    apart = samples * small * box * middle * (inputs + outputs * prod(kernel))
    one = samples * boxes * box * inputs * outputs * prod(reach)
    joining = inputs * middle * outputs * prod(kernel) * prod(n + m - 1 for n, m in zip(kernel, stride, strict=True))
    return one + joining < CLEARLY * apart


@dataclass(frozen=True, slots=True)
class _Node:
    """An operation of the forward pass.

    Attributes
    ----------
    inputs : tuple of int
        Operations whose outputs it takes, if these need a gradient.
    out_bytes : int
        Of its output, and of the gradient that comes back for it.
    kept_bytes : int
        What it alone holds until its way back is done.
    num_weights : int
    workspace_bytes : int
        Taken on the way back and given up at once.
    hands_on : bool
        On the way back it gives its inputs the gradient that it got, and makes none.
    """

    inputs: tuple[int, ...]
    out_bytes: int
    kept_bytes: int = 0
    num_weights: int = 0
    workspace_bytes: int = 0
    hands_on: bool = False


@dataclass(slots=True)
class _Tape:
    """The forward pass, operation by operation, of `samples` samples at a time.

    In a pass that is not the first, rounded weights are there already.
    """

    value_bytes: int
    samples: int
    channels_last: bool
    on_cpu: bool
    first_pass: bool = True
    nodes: list[_Node] = field(default_factory=list)
    kept_bytes: int = 0
    peak_forward_bytes: int = 0
    num_weights: int = 0
    most_weights: int = 0

    def add(self, node: _Node, *, passing_bytes: int = 0) -> int:
        """Append an operation, during which further `passing_bytes` come and go; gives its number."""
        self.nodes.append(node)
        self.kept_bytes += node.kept_bytes
        self.peak_forward_bytes = max(self.peak_forward_bytes, self.kept_bytes + passing_bytes)
        self.num_weights += node.num_weights
        self.most_weights = max(self.most_weights, node.num_weights)
        return len(self.nodes) - 1

    def let_go(self, number: int) -> None:
        """What an operation kept is not needed for its way back."""
        self.kept_bytes -= self.nodes[number].kept_bytes
        self.nodes[number] = replace(self.nodes[number], kept_bytes=0)

    def peak_backward_bytes(self, gradient_bytes: int, most: int) -> int:
        """Most bytes at a time while gradients are made; those of weights grow from `gradient_bytes` to `most`."""
        kept, peak, waiting = self.kept_bytes, self.kept_bytes, {len(self.nodes) - 1: 0}
        for number in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[number]
            incoming = waiting.pop(number, 0)
            there = kept + gradient_bytes + sum(waiting.values())
            made = 0
            for source in sorted(node.inputs):
                size = self.nodes[source].out_bytes
                if node.hands_on:
                    # One tensor for all inputs: it lives as long as the first of them waits for it.
                    shared = node.out_bytes if source == min(node.inputs) else 0
                    waiting[source] = max(waiting.get(source, 0), shared)
                else:
                    made += size
                    waiting[source] = size
            own = node.num_weights * FLOAT_BYTES
            rounded = node.num_weights * self.value_bytes if self.value_bytes != FLOAT_BYTES else 0
            peak = max(peak, there + incoming + made + own + rounded + node.workspace_bytes)
            gradient_bytes = min(most, gradient_bytes + own)
            kept -= node.kept_bytes
        return peak


@dataclass(frozen=True, slots=True)
class _Map:
    """A feature map: which operation made it, its channels and edges."""

    source: int | None
    channels: int
    edges: tuple[int, ...]

    def num_values(self, samples: int) -> int:
        return samples * self.channels * prod(self.edges)


def _convolve(
    tape: _Tape, x: _Map, channels: int, kernel: Sequence[int], stride: Sequence[int], *, bias: bool = True
) -> _Map:
    """A convolution: its input is kept by what made it, its weight in the step's precision by itself."""
    edges = tuple(edge // factor for edge, factor in zip(x.edges, stride, strict=True))
    made = _Map(None, channels, edges)
    weights = channels * (x.channels * prod(kernel) + bias)
    kept = weights * tape.value_bytes if tape.value_bytes != FLOAT_BYTES and tape.first_pass else 0
    inputs: tuple[int, ...] = ()
    if x.source is None:
        # The image itself: rounded for the convolution, and no gradient goes there.
        kept += x.num_values(tape.samples) * tape.value_bytes if tape.value_bytes != FLOAT_BYTES else 0
    else:
        inputs = (x.source,)
    workspace = _workspace(tape, _map_bytes(tape, x) + _map_bytes(tape, made))
    return _put(tape, _Node(inputs, _map_bytes(tape, made), kept, weights, workspace), made)


def _workspace(tape: _Tape, in_and_out_bytes: int) -> int:
    """What oneDNN takes for a weight's gradient: input and output in its own layout, and once more in low precision."""
    if not tape.on_cpu:
        return 0
    return in_and_out_bytes * ((not tape.channels_last) + (tape.value_bytes != FLOAT_BYTES))


def _map_bytes(tape: _Tape, made: _Map) -> int:
    return made.num_values(tape.samples) * tape.value_bytes


def _put(tape: _Tape, node: _Node, made: _Map, *, passing_bytes: int = 0) -> _Map:
    return _Map(tape.add(node, passing_bytes=passing_bytes), made.channels, made.edges)


def _normalize(tape: _Tape, x: _Map) -> _Map:
    """A norm of any kind: it keeps its input, which the convolution before does not need any more."""
    size = _map_bytes(tape, x)
    return _put(tape, _Node((_source(x),), size, size, 2 * x.channels), x, passing_bytes=size)


def _activate(tape: _Tape, x: _Map) -> _Map:
    """Leaky ReLU in place: it keeps its output, which is the next layer's input too."""
    size = _map_bytes(tape, x)
    return _put(tape, _Node((_source(x),), size, size), x)


def _source(x: _Map) -> int:
    if x.source is None:
        message = "the image has no operation that made it"
        raise ValueError(message)
    return x.source


def _block(tape: _Tape, x: _Map, channels: int, kernel: Sequence[int], stride: Sequence[int]) -> _Map:
    """`ConvolutionBlock.forward`."""
    return _activate(tape, _normalize(tape, _convolve(tape, x, channels, kernel, stride)))


def _attend(tape: _Tape, x: _Map, attention: Attention) -> _Map:
    """The attention blocks; values of which there is one a channel are left out.

    Each holds one map more: its input, where that is not kept by an activation, else its output.
    """
    if attention == "none":
        return x
    size = _map_bytes(tape, x)
    by_channel = _gate(tape, x, _squeeze_weights(x.channels), size)
    if attention == "se":
        return by_channel
    by_voxel = _gate(tape, x, x.channels + 1, size // x.channels)
    return _put(tape, _Node((_source(by_channel), _source(by_voxel)), size, hands_on=True), x, passing_bytes=2 * size)


def _gate(tape: _Tape, x: _Map, weights: int, kept_bytes: int) -> _Map:
    """The map times a gate made of it; on the way back the gate's gradient is the sum of a map."""
    size = _map_bytes(tape, x)
    return _put(tape, _Node((_source(x),), size, kept_bytes, weights, size), x, passing_bytes=size)


def _squeeze_weights(channels: int) -> int:
    squeezed = max(1, channels // SQUEEZE)
    return squeezed * (channels + 1) + channels * (squeezed + 1)


def _residual_block(
    tape: _Tape, x: _Map, channels: int, kernel: Sequence[int], stride: Sequence[int], attention: Attention
) -> _Map:
    """`ResidualBlock.forward`."""
    still = (1,) * len(kernel)
    around = x
    if max(stride) > 1:
        edges = tuple(edge // factor for edge, factor in zip(x.edges, stride, strict=True))
        around = _Map(None, x.channels, edges)
        kept = _map_bytes(tape, around) if x.channels != channels else 0
        if tape.on_cpu and tape.value_bytes != FLOAT_BYTES and len(kernel) == 3:
            # On CPUs autocast pools volumes in float32 and keeps the copy.
            kept += FLOAT_BYTES * x.num_values(tape.samples)
        around = _put(tape, _Node((_source(x),), _map_bytes(tape, around), kept), around)
    if x.channels != channels:
        around = _normalize(tape, _convolve(tape, around, channels, still, still, bias=False))
    inner = _block(tape, x, channels, kernel, stride)
    inner = _attend(tape, _normalize(tape, _convolve(tape, inner, channels, kernel, still)), attention)
    size = _map_bytes(tape, inner)
    node = _Node((_source(around), _source(inner)), size, hands_on=True)
    return _activate(tape, _put(tape, node, inner, passing_bytes=3 * size))


def _join(tape: _Tape, x: _Map, skip: _Map, stride: Sequence[int], kernel: Sequence[int]) -> _Map:
    """`ConvolutionBlock.join`: an upsampling and the first convolution of a decoder stage."""
    still = (1,) * len(kernel)
    if tape.on_cpu:
        if merging_pays(x.edges, tape.samples, (x.channels, skip.channels, *stride), (skip.channels,) * 2 + (*kernel,)):
            a = _convolve_enlarged(tape, x, skip, stride, kernel)
        else:
            a = _convolve(tape, _upsample(tape, x, skip, stride), skip.channels, kernel, still, bias=False)
        b = _convolve(tape, skip, skip.channels, kernel, still)
        size = _map_bytes(tape, a)
        both = _put(tape, _Node((_source(a), _source(b)), size, hands_on=True), a, passing_bytes=3 * size)
    else:
        up = _upsample(tape, x, skip, stride)
        wide = _Map(None, 2 * skip.channels, skip.edges)
        size = _map_bytes(tape, wide)
        wide = _put(tape, _Node((_source(up), _source(skip)), size, size), wide, passing_bytes=size // 2)
        both = _convolve(tape, wide, skip.channels, kernel, still)
    return _activate(tape, _normalize(tape, both))


def _convolve_enlarged(tape: _Tape, x: _Map, skip: _Map, stride: Sequence[int], kernel: Sequence[int]) -> _Map:
    """`convolve_enlarged`, and the biases around it: a convolution to boxes of voxels, which are then put in order."""
    reach, made = neighbours(kernel, stride), _Map(None, skip.channels, skip.edges)
    edges = tuple(edge + n - 1 for edge, n in zip(x.edges, reach, strict=True))
    boxes = _Map(None, skip.channels * prod(stride), edges)
    weights = made.channels * (x.channels * prod(stride) + made.channels * prod(kernel) + 1)
    kept = tape.value_bytes * x.channels * boxes.channels * prod(reach)
    if tape.value_bytes != FLOAT_BYTES and tape.first_pass:
        kept += weights * tape.value_bytes
    size = _map_bytes(tape, boxes)
    workspace = _workspace(tape, _map_bytes(tape, x) + size)
    boxes = _put(tape, _Node((_source(x),), size, kept, weights, workspace), boxes)
    return _put(
        tape, _Node((_source(boxes),), _map_bytes(tape, made), workspace_bytes=size), made, passing_bytes=2 * size
    )


def _network(tape: _Tape, configuration: Configuration, num_channels: int, num_classes: int) -> list[_Map]:
    """`UNet.deep_logits`: logits of each level that the loss looks at, the finest first.

    A stage's blocks follow the lists of the configuration: the first of an encoder stage takes the stride.
    """
    features, kernels = configuration.features_per_stage, configuration.kernel_sizes
    still = (1,) * len(configuration.patch_size)
    x = _Map(None, num_channels, configuration.patch_size)
    if configuration.residual:
        x = _block(tape, x, features[0], kernels[0], still)
    skips = []
    stages = zip(features, kernels, configuration.strides, configuration.encoder_blocks, strict=True)
    for channels, kernel, stride, count in stages:
        for number in range(count):
            step = still if number else stride
            if configuration.residual:
                x = _residual_block(tape, x, channels, kernel, step, configuration.attention)
            else:
                x = _block(tape, x, channels, kernel, step)
        if not configuration.residual:
            x = _attend(tape, x, configuration.attention)
        skips.append(x)
    levels = [] if len(features) > 1 else [x]
    for level in range(len(features) - 2, -1, -1):
        skip = skips[level]
        x = _join(tape, x, skip, configuration.strides[level + 1], kernels[level])
        for _ in range(configuration.n_conv_per_stage_decoder[-1 - level] - 1):
            x = _block(tape, x, features[level], kernels[level], still)
        levels.append(x)
    if not configuration.deep_supervision:
        return [_head(tape, levels[-1], num_classes)]
    used = max(1, len(levels) - 1)
    tape.num_weights += sum(num_classes * (level.channels + 1) for level in levels[:-used])
    return [_head(tape, level, num_classes) for level in levels[: -used - 1 : -1]]


def _upsample(tape: _Tape, x: _Map, skip: _Map, stride: Sequence[int]) -> _Map:
    """`Upsample` to the grid and channels of the skip."""
    made = _Map(None, skip.channels, skip.edges)
    weights = made.channels * (x.channels * prod(stride) + 1)
    # Its output is the next convolution's input where stages join by a sum; else it is gone once concatenated.
    kept = _map_bytes(tape, made) if tape.on_cpu else 0
    # On CPUs the boxes of the product are put in order, and their gradient back again.
    copy = _map_bytes(tape, made) if tape.on_cpu else 0
    node = _Node((_source(x),), _map_bytes(tape, made), kept, weights, copy)
    return _put(tape, node, made, passing_bytes=copy)


def _head(tape: _Tape, x: _Map, num_classes: int) -> _Map:
    """A 1x1 convolution to float32 logits, which the loss looks at and then lets go."""
    made = _Map(None, num_classes, x.edges)
    size = FLOAT_BYTES * made.num_values(tape.samples)
    return _put(tape, _Node((_source(x),), size, size, num_classes * (x.channels + 1)), made)


def _joined_samples(tape: _Tape, heads: Sequence[_Map]) -> _Map:
    """The logits of a level joined to a batch; on the way back each sample gets its part of the batch's gradient."""
    made = replace(heads[0], source=None)
    size = FLOAT_BYTES * made.num_values(tape.samples)
    return _put(tape, _Node(tuple(_source(head) for head in heads), size, size, hands_on=True), made)


def _losses(tape: _Tape, heads: Sequence[_Map]) -> None:
    """`deep_loss`."""
    ends = []
    for number, head in enumerate(heads):
        values = head.num_values(tape.samples)
        full = FLOAT_BYTES * values
        # Coarser levels need a target of their own.
        index = INDEX_BYTES * values // head.channels if number else 0
        log_p = tape.add(_Node((_source(head),), full, full + index), passing_bytes=full)
        cross_entropy = tape.add(_Node((log_p,), 0))
        p = tape.add(_Node((log_p,), full, full))
        overlap = tape.add(_Node((p,), 0, MASK_BYTES * values), passing_bytes=full)
        size = tape.add(_Node((p,), 0))
        ends += [cross_entropy, overlap, size]
    tape.add(_Node(tuple(ends), 0))
