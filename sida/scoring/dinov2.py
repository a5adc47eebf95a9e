"""DINOv2 (Oquab et al., arXiv 2304.07193): the features of FD-DINOv2 (Stein et al., arXiv 2306.04675; EDM2's second metric).

A vision transformer written here, with the weights that Meta published (``dinov2_vitl14_pretrain.pth``, Apache-2.0) read as
tensors: no TorchScript and no code of a hub, hence nothing to trust but numbers at a pinned digest. The feature is the class token
behind the last norm. Images are resized to 224x224 by an antialiased bicubic filter, and scaled by ImageNet's mean and deviation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sida.errors import UserError
from sida.foreign.boundary import reading
from sida.printing import one_line
from sida.scoring.torchscript import three_channels

if TYPE_CHECKING:
    from sida.teachers.files import NetworkFile

PATCH, IMAGE = 14, 224  # pixels along an edge
AT_ONCE = 64  # images: of more, ViT-L's inner tensors would take gigabytes
GRID = IMAGE // PATCH
HEAD = 64  # channels of an attention head, in each of the published sizes
OFFSET = 0.1  # Meta's: positions are stretched to 16.1 of 37 cells, and 16 of them are taken
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


@dataclass(frozen=True)
class Sizes:
    """What the names and shapes in a file say of the network; ViT-L/14 has width 1024, 24 blocks, hidden 4096, 37 positions."""

    width: int
    blocks: int
    hidden: int
    positions: int  # along an edge


class DinoV2(nn.Module):
    """uint8 images [B, 1 or 3, H, W] -> features float32 [B, width]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + sizes.positions**2, sizes.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, sizes.width, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.hidden) for _ in range(sizes.blocks))
        self.norm = _norm(sizes.width)
        self.scale: Tensor
        self.register_buffer("scale", _scale(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features float32 [B, width]."""
        return torch.cat([self._of_pixels(part) for part in images.split(AT_ONCE)])

    def _of_pixels(self, images: Tensor) -> Tensor:
        x = three_channels(images).to(torch.float32)
        x = nn.functional.interpolate(x, (IMAGE, IMAGE), mode="bicubic", antialias=True)
        mean, deviation = self.scale
        return self.features((x / 255 - mean) / deviation)

    def features(self, x: Tensor) -> Tensor:
        """Scaled images [B, 3, 224, 224] of the network's dtype -> [B, width]."""
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])  # a norm of each token: the others are not needed

    def with_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raise UserError: there are no probabilities."""
        raise UserError("metric is: DINOv2 knows no classes: take `is` out of evaluation.extra_metrics")


class Block(nn.Module):
    """Attention and MLP, each behind a norm and scaled by a factor of each channel (LayerScale): [B, tokens, width] -> same."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.ls1, self.ls2 = _layer_scale(width), _layer_scale(width)

    def forward(self, x: Tensor) -> Tensor:
        heads = (
            self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        )  # [3, B, heads, tokens, 64]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = x + self.ls1["gamma"] * self.attn["proj"](mixed)
        return x + self.ls2["gamma"] * self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


def _scale() -> Tensor:
    return torch.tensor([MEAN, DEVIATION]).view(2, 1, 3, 1, 1)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def _layer_scale(width: int) -> nn.ParameterDict:
    return nn.ParameterDict({"gamma": nn.Parameter(torch.empty(width))})


def load_dinov2(path: Path) -> DinoV2:
    """Return the frozen network of a state dict, a torch file or safetensors, read without running anything in it.

    Raises UserError for any other file.
    """
    from sida.teachers.formats import tensors_of

    file, sizes = read_dinov2(path)
    with reading(f"detector {path}", path, "not DINOv2's weights"):
        tensors = {name: tensor.to(torch.float32) for name, tensor in tensors_of(file, path).items()}
        return network_of(tensors, sizes).requires_grad_(False)


def read_dinov2(path: Path) -> tuple[NetworkFile, Sizes]:
    """Return a file whose tensors are DINOv2's by name, type and shape, and their sizes. Raises UserError for any other."""
    from sida.teachers.formats import read_network

    label = f"detector {path}"
    with reading(label, path, "not DINOv2's weights"):
        file = read_network(path, label)
        shapes = {name: shape for name, (dtype, shape) in file.shapes().items() if "float" in dtype}
        return file, sizes_of(shapes, label)


def network_of(tensors: Mapping[str, Tensor], sizes: Sizes) -> DinoV2:
    """Return the network with these weights, which has the positions of 224 pixels, whatever it was trained at."""
    state = {name: tensor for name, tensor in tensors.items() if name != MASK}
    state["pos_embed"] = _positions(state["pos_embed"], sizes.positions)
    with torch.device("meta"):
        network = DinoV2(Sizes(sizes.width, sizes.blocks, sizes.hidden, GRID))
    network.load_state_dict(state, assign=True)
    network.scale = _scale()
    return network.eval()


def _positions(embedding: Tensor, grid: int) -> Tensor:
    """Return [1, 1 + 16 x 16, width] from the embedding of a class token and grid x grid patches, as Meta's code resizes it."""
    if grid == GRID:
        return embedding
    own, width = embedding[:, :1], embedding.shape[2]
    patches = embedding[:, 1:].reshape(1, grid, grid, width).permute(0, 3, 1, 2).to(torch.float32)
    factor = (GRID + OFFSET) / grid  # the filter's positions follow from it, not from the sizes
    resized = nn.functional.interpolate(patches, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([own, resized.flatten(2).transpose(1, 2).to(own.dtype)], dim=1)


# -- which file this is

MASK = "mask_token"  # of training; no image is masked here
_BLOCK = re.compile(r"blocks\.(\d{1,4})\.")


def is_dinov2(names: Any) -> bool:
    """Return whether names of tensors are those of one of Meta's vision transformers."""
    return {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(names)


def sizes_of(shapes: Mapping[str, tuple[int, ...]], label: str) -> Sizes:
    """Return the sizes of the network whose tensors these are. Raises UserError for another one, naming what differs."""
    if not is_dinov2(shapes):
        raise UserError(f"{label} does not hold DINOv2's weights: take dinov2_vitl14_pretrain.pth")
    if "register_tokens" in shapes:
        raise UserError(f"{label} is DINOv2 with registers, whose features are others: take dinov2_vitl14_pretrain.pth")
    positions, projection = shapes["pos_embed"], shapes["patch_embed.proj.weight"]
    width, hidden = projection[0], shapes.get("blocks.0.mlp.fc1.bias", (0,))[0]
    grid = round((positions[1] - 1) ** 0.5) if len(positions) == 3 else 0
    numbers = {block[1] for name in shapes if (block := _BLOCK.match(name))}
    sizes = Sizes(width, len(numbers), hidden, grid)
    if width % HEAD == 0 and grid and numbers and hidden:
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in DinoV2(sizes).state_dict().items()}
        found = {name: shape for name, shape in shapes.items() if name != MASK}
        if found == wanted:
            return sizes
        wrong = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    else:
        wrong = "blocks.0.mlp.fc1.bias" if not hidden else "pos_embed" if not grid else "patch_embed.proj.weight"
    shape = f"is {list(shapes[wrong])}" if wrong in shapes else "is missing"
    raise UserError(
        f"{label} is no DINOv2 of this form, whose MLP is plain: {one_line(wrong, 60)} {shape}: take dinov2_vitl14_pretrain.pth"
    )
