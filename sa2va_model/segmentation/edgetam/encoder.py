# SPDX-License-Identifier: Apache-2.0
"""EdgeTAM's image encoder: RepViT (arXiv 2307.09283) behind SAM-2's feature pyramid.

Module names are those of the published file, which has them from timm's `repvit_m1`.
"""

from __future__ import annotations

from sam2.modeling.backbones.image_encoder import ImageEncoder
from torch import Tensor, nn

from sa2va_model.config.segmenter import EdgeTamConfig
from sa2va_model.segmentation.sam2_modules import pyramid


class ConvNorm(nn.Sequential):
    """A convolution without bias and the normalisation behind it."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)


class Mixer(nn.Module):
    """What a pixel takes from its neighbours: 3 x 3, 1 x 1 and itself, channel by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ConvNorm(width, width, 3, groups=width)
        self.conv1 = ConvNorm(width, width, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        return self.conv(x) + self.conv1(x) + x


class Gate(nn.Module):
    """Squeeze and excite: channels weighted by what the whole image has of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(8, (width // 4 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(width, narrow, 1)
        self.fc2 = nn.Conv2d(narrow, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        mean = x.mean((2, 3), keepdim=True)
        return x * self.fc2(self.fc1(mean).relu()).sigmoid()


class Channels(nn.Module):
    """Two layers on the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, 2 * width)
        self.act = nn.GELU()
        self.conv2 = ConvNorm(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        out: Tensor = self.conv2(self.act(self.conv1(x)))
        return out


class Block(nn.Module):
    """Neighbours, then channels."""

    def __init__(self, width: int, *, gated: bool) -> None:
        super().__init__()
        self.token_mixer = Mixer(width)
        self.se = Gate(width) if gated else nn.Identity()
        self.channel_mixer = Channels(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        x = self.se(self.token_mixer(x))
        return x + self.channel_mixer(x)


class Downsample(nn.Module):
    """Half of the side, more channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pre_block = Block(inputs, gated=False)
        self.spatial_downsample = ConvNorm(inputs, inputs, 3, 2, groups=inputs)
        self.channel_downsample = ConvNorm(inputs, outputs)
        self.ffn = Channels(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C', h / 2, w / 2]."""
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)


class Stem(nn.Module):
    """Pixels to a quarter of the side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, width // 2, 3, 2)
        self.act1 = nn.GELU()
        self.conv2 = ConvNorm(width // 2, width, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, C, S / 4, S / 4]."""
        out: Tensor = self.conv2(self.act1(self.conv1(x)))
        return out


class RepVitStage(nn.Module):
    """Blocks of one size; every other one is gated."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.downsample = Downsample(inputs, width) if inputs != width else nn.Identity()
        self.blocks = nn.Sequential(*(Block(width, gated=i % 2 == 0) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C', h', w']."""
        out: Tensor = self.blocks(self.downsample(x))
        return out


class RepVit(nn.ModuleDict):
    """Pixels to four levels of features. Stages have no common module in the published file."""

    def __init__(self, config: EdgeTamConfig) -> None:
        inputs = (config.widths[0], *config.widths)
        stages = zip(inputs, config.widths, config.depths, strict=False)
        super().__init__({"stem": Stem(config.widths[0])})
        self.update({f"stages_{i}": RepVitStage(*sizes) for i, sizes in enumerate(stages)})

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """[B, 3, S, S] to [B, C, s, s] for s = S/4, S/8, S/16, S/32."""
        x, *levels = pixels, *()
        for name, part in self.items():
            x = part(x)
            if name != "stem":
                levels.append(x)
        return levels


class RepVitTrunk(nn.Module):
    """RepViT as SAM-2's image encoder wants its trunk."""

    def __init__(self, config: EdgeTamConfig) -> None:
        super().__init__()
        self.channel_list = list(reversed(config.widths))
        self.body = RepVit(config)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """As `RepVit.forward`."""
        out: list[Tensor] = self.body(pixels)
        return out


def image_encoder(config: EdgeTamConfig) -> ImageEncoder:
    """EdgeTAM's image encoder."""
    trunk = RepVitTrunk(config)
    neck = pyramid(config.hidden_dim, trunk.channel_list, config.top_down_levels)
    return ImageEncoder(trunk=trunk, neck=neck, scalp=1)
