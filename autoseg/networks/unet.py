"""The U-Net with deep supervision, its encoder plain or residual, from a configuration."""

from collections.abc import Sequence

from torch import Tensor, nn

from autoseg.artifacts.plan import Attention, Configuration, Norm
from autoseg.networks.blocks import (
    ConvolutionBlock,
    Head,
    ResidualBlock,
    ResidualStage,
    Stage,
    Upsample,
    exactly,
    he_normal,
)


class UNet(nn.Module):
    """Encoder, decoder with skips, and segmentation heads: one for each decoder stage, or for the finest.

    Parameters
    ----------
    channels, classes : int
        Input channels and output classes, background included.
    features, encoder_blocks, decoder_convolutions : sequence of int
        One entry a stage (decoder: one less).
    kernels, strides : sequence of sequences of int
        One entry a stage.
    residual : bool
        `encoder_blocks` are residual blocks, behind a stem of one convolution, rather than convolutions.
    norm : str
        Behind each convolution.
    attention : str
        At the end of each stage of a plain encoder, of each block of a residual one.
    deep_supervision : bool
        False: there is a head for the finest decoder stage alone.

    Notes
    -----
    Ronneberger et al. 2015 in the form of Isensee et al. 2021: strided convolutions go down, transposed ones up,
    a norm and leaky ReLU (0.01) follow each convolution. Weights start as He normal, biases at zero. The
    residual encoder is that of Isensee et al., nnU-Net Revisited (MICCAI 2024); its blocks start as the identity.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        encoder_blocks: Sequence[int],
        decoder_convolutions: Sequence[int],
        residual: bool,
        norm: Norm = "instance",
        attention: Attention = "none",
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        d = len(strides[0])
        self.strides = tuple(tuple(stride) for stride in strides)
        still = (1,) * d
        self.stem = ConvolutionBlock(channels, features[0], kernels[0], still, norm=norm) if residual else nn.Identity()
        before = [features[0] if residual else channels, *features[:-1]]
        kind = ResidualStage if residual else Stage
        sizes = zip(before, features, kernels, strides, encoder_blocks, strict=True)
        self.encoder = nn.ModuleList(kind(*size, norm=norm, attention=attention) for size in sizes)
        # Decoder lists run from the coarsest level to the finest.
        levels = list(range(len(features) - 2, -1, -1))
        self.up = nn.ModuleList(Upsample(features[level + 1], features[level], strides[level + 1]) for level in levels)
        self.decoder = nn.ModuleList(
            Stage(2 * features[level], features[level], kernels[level], still, count, norm=norm)
            for level, count in zip(levels, decoder_convolutions, strict=True)
        )
        head_levels = levels if levels and deep_supervision else [0]
        self.heads = nn.ModuleList(Head(features[level], classes, d) for level in head_levels)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at full resolution.

        Parameters
        ----------
        x : Tensor, shape (B, C, *edges)
            Edges divide by the product of the strides.

        Returns
        -------
        Tensor, shape (B, K, *edges)

        Notes
        -----
        On CPUs the first convolution, the last one and the head compute in single precision under autocast, too: of
        what bfloat16 changes of probabilities that takes away half or more.
        """
        exact = x.device.type == "cpu"
        finest = self._features(x, exact=exact)[-1]
        with exactly(x, wanted=exact):
            logits: Tensor = self.heads[-1](finest.float() if exact else finest)
        return logits

    def deep_logits(self, x: Tensor, num_levels: int) -> list[Tensor]:
        """Logits of the finest decoder levels that have heads, the finest first."""
        levels = self._features(x)[-len(self.heads) :]
        pairs = list(zip(self.heads, levels, strict=True))[::-1]
        return [head(level) for head, level in pairs[:num_levels]]

    def _features(self, x: Tensor, *, exact: bool = False) -> list[Tensor]:
        """Feature maps of the decoder, the coarsest first; if `exact`, both ends of the network in single precision."""
        skips = []
        with exactly(x, wanted=exact):
            x = self.stem(x)
        for number, stage in enumerate(self.encoder):
            # A residual encoder begins with its stem.
            x = stage(x, exact="first") if exact and isinstance(stage, Stage) and not number else stage(x)
            skips.append(x)
        if not len(self.decoder):
            return [x]
        levels = []
        for up, stage, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = stage(x, up, skip, exact="rest" if exact and stage is self.decoder[-1] else None)
            levels.append(x)
        return levels


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
        he_normal(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, ResidualBlock) and isinstance(module.norm.weight, Tensor):
        nn.init.zeros_(module.norm.weight)


def build_network(configuration: Configuration, num_channels: int, num_classes: int) -> UNet:
    """The network of a configuration, with fresh weights."""
    return UNet(
        num_channels,
        num_classes,
        features=configuration.features_per_stage,
        kernels=configuration.kernel_sizes,
        strides=configuration.strides,
        encoder_blocks=configuration.encoder_blocks,
        decoder_convolutions=configuration.n_conv_per_stage_decoder,
        residual=configuration.residual,
        norm=configuration.norm,
        attention=configuration.attention,
        deep_supervision=configuration.deep_supervision,
    )
