"""The U-Net and its parts: shapes, and the same numbers as torch's own layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoseg.networks import blocks
from autoseg.networks.blocks import ConvolutionBlock, Head, InstanceNorm, ResidualBlock, Upsample
from autoseg.networks.convolution import Convolution3d
from autoseg.networks.cost import merging_pays
from autoseg.networks.merged import convolve_enlarged
from autoseg.networks.unet import UNet, _initialise, build_network
from autoseg.train.losses import Objective, deep_loss, level_weights

LAYOUTS = [torch.contiguous_format, "channels last"]


def laid_out(x, layout):
    """A leaf tensor in the memory format."""
    if layout == "channels last":
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.detach().clone(memory_format=layout).requires_grad_()


def assert_same(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def assert_near(actual, expected, tolerance):
    """Each value within a share of the largest."""
    assert (actual.detach() - expected.detach()).abs().max() < tolerance * expected.detach().abs().max()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("edges", [(5, 6), (3, 4, 5), (32, 33)])
def test_instance_norm_equals_torchs(batch, edges, layout):
    norm = InstanceNorm(4)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    x = torch.randn(batch, 4, *edges) * 3 + torch.arange(4.0).reshape(4, *(1,) * len(edges))
    ours, theirs = laid_out(x, layout), laid_out(x, layout)
    weight, bias = norm.weight.detach().clone().requires_grad_(), norm.bias.detach().clone().requires_grad_()
    given = torch.randn(batch, 4, *edges)
    actual = norm(ours)
    expected = functional.instance_norm(theirs, weight=weight, bias=bias, eps=1e-5)
    assert_same(actual, expected)
    actual.backward(given)
    expected.backward(given)
    assert_same(ours.grad, theirs.grad)
    assert_same(norm.weight.grad, weight.grad)
    assert_same(norm.bias.grad, bias.grad)


@pytest.mark.parametrize("batch", [1, 2])
def test_instance_norm_of_a_single_voxel_is_its_shift(batch):
    norm = InstanceNorm(3)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert_same(norm(torch.randn(batch, 3, 1, 1)).flatten(1), norm.bias.expand(batch, 3), 1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "stride", "depth"),
    [((3, 3, 3), 1, 2), ((3, 1, 1), 1, 2), ((3, 3, 3), 1, 1), ((3, 3, 3), 2, 2), ((5, 3, 3), 1, 4), ((5, 3, 3), 2, 3)],
)
def test_gradients_of_a_convolution_with_fewer_slices_than_its_kernel(kernel, stride, depth, precision, layout):
    padding = tuple(edge // 2 for edge in kernel)
    convolution = Convolution3d(32, 32, kernel, (stride, 1, 1), padding)
    x, values = torch.randn(2, 32, depth, 4, 4), [convolution.weight.detach(), convolution.bias.detach()]
    expected = [each.clone().requires_grad_() for each in (x, *values)]
    made = functional.conv3d(*(each.double() for each in expected), (stride, 1, 1), padding)
    given = torch.randn(made.shape)
    made.backward(given.double())
    image = laid_out(x, layout)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        actual = convolution(image)
    actual.backward(given.to(actual.dtype))
    tolerance = 1e-5 if precision == torch.float32 else 0.02
    assert_near(actual, made, tolerance)
    for ours, theirs in zip((image, convolution.weight, convolution.bias), expected, strict=True):
        assert_near(ours.grad, theirs.grad, tolerance)


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), (2, 2, 2)), ((3, 1, 1), (2, 2, 2)), ((1, 3, 3), (1, 2, 2))])
def test_gradients_of_an_enlarged_slice_in_low_precision(kernel, stride):
    values = torch.randn(2, 32, 1, 4, 4), torch.randn(32, 16, *stride), torch.randn(16, 16, *kernel)
    results = []
    for precision in (torch.float32, torch.bfloat16):
        given = [each.clone().requires_grad_() for each in values]
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            made = convolve_enlarged(*given)
        made.backward(torch.sin(torch.arange(made.numel())).view(made.shape).to(made.dtype))
        results.append([made, *(each.grad for each in given)])
    for theirs, ours in zip(*results, strict=True):
        assert_near(ours, theirs, 0.02)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "edges"),
    [
        ((3, 3), (2, 2), (6, 5)),
        ((3, 3), (2, 1), (2, 5)),
        ((3, 3, 3), (2, 2, 2), (4, 2, 3)),
        ((3, 3, 3), (1, 2, 2), (4, 3, 2)),
        ((1, 3, 3), (1, 2, 2), (1, 5, 4)),
        ((1, 3, 3), (2, 2, 2), (2, 5, 4)),
        ((3, 1, 3), (4, 3, 2), (2, 2, 3)),
    ],
)
def test_joining_equals_a_convolution_of_the_joined(kernel, stride, edges, batch, layout, merged, monkeypatch):
    monkeypatch.setattr(blocks, "merging_pays", lambda *_: merged)
    block = ConvolutionBlock(7, 4, kernel, (1,) * len(kernel)).double()
    up = Upsample(3, 5, stride).double()
    with torch.no_grad():
        block.convolution.bias.uniform_(-1, 1)
        up.bias.uniform_(-1, 1)
    modules = nn.ModuleList([block, up])
    larger = [edge * step for edge, step in zip(edges, stride, strict=True)]
    x, skip = torch.randn(batch, 3, *edges).double(), torch.randn(batch, 2, *larger).double()
    given = torch.randn(batch, 4, *larger).double()
    results = []
    for join in (block.join, lambda x, up, skip: block(torch.cat((up(x), skip), dim=1))):
        inputs = [laid_out(each, layout) for each in (x, skip)]
        joined = join(inputs[0], up, inputs[1])
        modules.zero_grad()
        joined.backward(given)
        results.append([joined, *(each.grad for each in (*inputs, *modules.parameters()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("edges", "samples", "channels", "kernel", "stride", "pays"),
    [
        ((20, 28, 20), 1, (64, 32), (3, 3, 3), (2, 2, 2), True),
        ((5, 7, 5), 1, (256, 128), (3, 3, 3), (2, 2, 2), False),  # one weight of two costs more than a map so small
        ((20, 28, 20), 1, (64, 32), (5, 5, 5), (2, 2, 2), False),
        ((1, 28, 20), 9, (64, 32), (3, 3, 3), (1, 2, 2), False),  # whose borders meet
        ((8, 64, 64), 2, (64, 32), (1, 3, 3), (1, 2, 2), True),
        ((64, 64, 64), 2, (64, 32), (3, 3, 3), (1, 1, 1), False),
    ],
)
def test_upsampling_and_convolution_are_one_where_that_is_less_work(edges, samples, channels, kernel, stride, pays):
    inputs, outputs = channels
    assert merging_pays(edges, samples, (inputs, outputs, *stride), (outputs, outputs, *kernel)) == pays


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("edges", [(6, 5), (4, 5, 6)])
def test_a_head_equals_a_1x1_convolution(edges, batch, layout):
    head = Head(8, 3, len(edges))
    with torch.no_grad():
        head.bias.uniform_(-1, 1)
    convolve = functional.conv2d if len(edges) == 2 else functional.conv3d
    x = torch.randn(batch, 8, *edges)
    ours, theirs = laid_out(x, layout), laid_out(x, layout)
    given = torch.randn(batch, 3, *edges)
    actual = head(ours)
    actual.backward(given)
    gradients = head.weight.grad.clone(), head.bias.grad.clone()
    head.zero_grad()
    expected = convolve(theirs, head.weight, head.bias)
    expected.backward(given)
    assert actual.shape == expected.shape
    assert_same(actual, expected)
    assert_same(ours.grad, theirs.grad)
    assert_same(gradients[0], head.weight.grad)
    assert_same(gradients[1], head.bias.grad)


SHAPES = [
    ((16, 8), ((1, 1), (2, 2), (2, 2)), None),
    ((8, 8, 16), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), None),
    ((5, 16, 16), ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2)), ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))),
    ((6, 8, 8), ((1, 1, 1), (2, 2, 2)), None),
    ((6, 7, 5), ((1, 1, 1),), None),
]


@pytest.fixture(params=["plain", "residual"])
def encoder(request):
    return request.param


@pytest.fixture(params=SHAPES, ids=["2D", "3D", "anisotropic", "two stages", "one stage"])
def configuration(request, encoder, build_configuration):
    patch, strides, kernels = request.param
    changes = {} if kernels is None else {"kernel_sizes": kernels}
    if encoder == "residual":
        changes |= {"n_conv_per_stage": None, "n_blocks_per_stage": (1, 3, 4, 6)[: len(strides)]}
    return build_configuration(patch, strides, channels=2, **changes)


def test_logits_have_the_shape_of_the_input(configuration):
    network = build_network(configuration, 2, 3)
    x = torch.randn(2, 2, *configuration.patch_size)
    logits = network(x)
    assert logits.shape == (2, 3, *configuration.patch_size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("configuration", [SHAPES[1]], indirect=True)
def test_both_ends_predict_in_single_precision_and_what_is_between_in_low(configuration, encoder):
    network, types = build_network(configuration, 2, 3), {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv3d | Head):
            layer.register_forward_hook(lambda _, __, made, name=name: types.update({name: made.dtype}))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(1, 2, *configuration.patch_size))
    first = "stem.convolution" if encoder == "residual" else "encoder.0.first.convolution"
    last = {name for name in types if name.startswith(f"decoder.{len(network.decoder) - 1}.rest")}
    exact = {name for name, kind in types.items() if kind == torch.float32}
    assert exact == {first, *last, f"heads.{len(network.heads) - 1}"}
    assert len(types) > len(exact)


def test_there_is_a_level_for_each_decoder_stage_the_finest_first(configuration):
    network = build_network(configuration, 2, 3)
    x = torch.randn(1, 2, *configuration.patch_size)
    levels = network.deep_logits(x, len(network.heads))
    assert len(levels) == max(1, configuration.n_stages - 1)
    shrunk = torch.ones(len(configuration.patch_size), dtype=torch.int64)
    for level, stride in zip(levels, configuration.strides, strict=False):
        shrunk *= torch.tensor(stride)
        assert level.shape[2:] == tuple(torch.tensor(configuration.patch_size) // shrunk)
    assert torch.equal(levels[0], network(x))
    assert len(network.deep_logits(x, 1)) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_reaches_every_parameter_that_the_loss_uses(configuration, layout):
    network = build_network(configuration, 2, 3)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            # As it starts, a block lets nothing through to its convolutions.
            torch.nn.init.ones_(module.norm.weight)
    weights = level_weights(len(network.heads))
    x = laid_out(torch.randn(2, 2, *configuration.patch_size), layout)
    target = torch.randint(0, 3, (2, *configuration.patch_size))
    deep_loss(network.deep_logits(x, len(weights)), target, weights, Objective(batch_dice=False)).backward()
    untouched = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    # The coarsest head has no weight in the loss, unless it is the only one.
    assert untouched == ({"heads.0.weight", "heads.0.bias"} if len(network.heads) > 1 else set())
    for name, parameter in network.named_parameters():
        # What a convolution adds to all voxels alike the norm behind it takes away again.
        if name not in untouched and "convolution.bias" not in name:
            assert parameter.grad.abs().max() > 0, name


def test_samples_do_not_see_each_other(configuration):
    network = build_network(configuration, 2, 3).eval()
    x = torch.randn(3, 2, *configuration.patch_size)
    together = network(x)
    for sample in range(3):
        assert_same(network(x[sample : sample + 1]), together[sample : sample + 1], 1e-4)


def test_training_and_evaluation_give_the_same(configuration):
    network = build_network(configuration, 2, 3)
    x = torch.randn(2, 2, *configuration.patch_size)
    assert torch.equal(network.train()(x), network.eval()(x))


def test_the_number_of_parameters_is_that_of_the_plain_network():
    network = UNet(
        1,
        2,
        features=(4, 8),
        kernels=((3, 3), (3, 3)),
        strides=((1, 1), (2, 2)),
        encoder_blocks=(2, 2),
        decoder_convolutions=(2,),
        residual=False,
    )

    def block(n_in, n_out):
        return 9 * n_in * n_out + n_out + 2 * n_out

    encoder = block(1, 4) + block(4, 4) + block(4, 8) + block(8, 8)
    decoder = (4 * 8 * 4 + 4) + block(8, 4) + block(4, 4)
    assert sum(p.numel() for p in network.parameters()) == encoder + decoder + (4 * 2 + 2)


def test_a_residual_encoder_counts_stem_blocks_and_shortcuts():
    network = UNet(
        1,
        2,
        features=(4, 8),
        kernels=((3, 3), (3, 3)),
        strides=((1, 1), (2, 2)),
        encoder_blocks=(1, 3),
        decoder_convolutions=(1,),
        residual=True,
    )

    def block(n_in, n_out):
        return 9 * n_in * n_out + n_out + 2 * n_out

    stem = block(1, 4)
    encoder = 2 * block(4, 4) + block(4, 8) + 5 * block(8, 8)
    shortcut = 4 * 8 + 2 * 8
    decoder = (4 * 8 * 4 + 4) + block(8, 4)
    assert sum(p.numel() for p in network.parameters()) == stem + encoder + shortcut + decoder + (4 * 2 + 2)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, (1, 1, 1)), (4, 8, (1, 2, 2))])
def test_a_residual_block_starts_as_its_shortcut(build_configuration, inputs, outputs, stride):
    block = ResidualBlock(inputs, outputs, (3, 3, 3), stride).apply(_initialise)
    x = torch.randn(2, inputs, 4, 8, 8)
    expected = functional.leaky_relu(block.shortcut(functional.avg_pool3d(x, stride, stride)), 0.01)
    torch.testing.assert_close(block(x), expected)


def test_weights_start_as_he_normal_and_biases_at_zero(build_configuration):
    network = build_network(build_configuration(features_per_stage=(32, 64)), 1, 2)
    convolution = network.encoder[1].rest[0].convolution
    # Gain of leaky ReLU (0.01), 64 inputs, 27 voxels.
    assert float(convolution.weight.detach().std()) == pytest.approx((2 / (1 + 0.01**2) / (64 * 27)) ** 0.5, rel=0.02)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()


def test_the_same_seed_gives_the_same_weights(build_configuration):
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(build_network(build_configuration(), 1, 2).state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    assert not all(torch.equal(networks[0][name], networks[2][name]) for name in networks[0])
