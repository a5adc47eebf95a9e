"""Golden numbers of DINOv2: features that Meta's own network gives with small weights, in float64.

    PYTHONPATH=. python -m tests.scoring.dinov2_golden FOLDER

FOLDER is a checkout of github.com/facebookresearch/dinov2 (Apache-2.0; the numbers are of b8931f7, 2025-08-14), which needs torch
alone. It writes dinov2_golden.json beside this file. Weights and images are this project's own draws, the same bits everywhere.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

from sida.numerics.draws import Draws

GOLDEN = Path(__file__).with_name("dinov2_golden.json")
WIDTH, HEADS, BLOCKS, HIDDEN, PATCH = 128, 2, 3, 192, 14
GRIDS = (37, 16, 5)  # positions along an edge: the published file's, those of 224 pixels, and fewer


def weights(grid: int, width: int = WIDTH, blocks: int = BLOCKS, hidden: int = HIDDEN) -> dict[str, Tensor]:
    """A state dict under Meta's names: every tensor uniform, of a size at which each of them shows in the features."""
    block = {
        **{f"norm{number}.{kind}": (width,) for number in (1, 2) for kind in ("weight", "bias")},
        **{"attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,)},
        **{
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "ls1.gamma": (width,),
            "ls2.gamma": (width,),
        },
        **{"mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,)},
        **{"mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,)},
    }
    shapes = {
        **{"cls_token": (1, 1, width), "pos_embed": (1, 1 + grid**2, width), "mask_token": (1, width)},
        **{"patch_embed.proj.weight": (width, 3, PATCH, PATCH), "patch_embed.proj.bias": (width,)},
        **{f"blocks.{number}.{name}": shape for number in range(blocks) for name, shape in block.items()},
        **{"norm.weight": (width,), "norm.bias": (width,)},
    }
    draws, state = Draws(0), {}
    for name, shape in shapes.items():
        values = 2 * draws.uniform(name, torch.arange(shape[0]), shape[1:]) - 1
        fan_in = values[0].numel() if len(shape) in (2, 4) else 1
        state[name] = values * (3 / fan_in) ** 0.5
    return state


def inputs() -> Tensor:
    """Images float64 [2, 3, 224, 224] about as large as scaled ones: squares of 4x4 pixels."""
    coarse = Draws(1).uniform("images", torch.arange(2), (3, 56, 56), torch.float64) * 4 - 2
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


def meta(folder: Path, grid: int) -> Tensor:
    """Features [2, 128] of Meta's network as its hub builds it."""
    sys.path.insert(0, str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that xFormers is not here
        from dinov2.models.vision_transformer import DinoVisionTransformer

    network = DinoVisionTransformer(
        img_size=grid * PATCH,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=BLOCKS,
        num_heads=HEADS,
        mlp_ratio=HIDDEN / WIDTH,
        init_values=1.0,
        block_chunks=0,
        interpolate_antialias=False,
        interpolate_offset=0.1,
    )
    network.load_state_dict(weights(grid))
    with torch.no_grad():
        return network.double().eval()(inputs())


if __name__ == "__main__":
    found = {str(grid): meta(Path(sys.argv[1]), grid).tolist() for grid in GRIDS}
    GOLDEN.write_text(json.dumps(found) + "\n")
