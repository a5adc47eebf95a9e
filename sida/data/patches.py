"""32x32 patches of the two photographs that scikit-learn ships: a pagoda (china.jpg) and a dahlia (flower.jpg).

License: CC BY 2.0. china.jpg is by danielbuechele (flickr.com/photos/danielbuechele/6061409035), flower.jpg by vultilion
(flickr.com/photos/vultilion/6056698931).
"""

from __future__ import annotations

import io
from importlib.resources import files

import numpy as np

from sida.errors import UserError
from sida.stores.objects import sha256_of

SIDE = 32
REDUCED = 3  # the photographs' pixels along an edge of one of ours
BOX = 96  # reduced pixels along an edge of the square around the object
PHOTOGRAPHS = (  # file, its sha256, left and top of the square in reduced pixels
    ("china.jpg", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29", 22, 24),
    ("flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638", 55, 26),
)


def load_patches() -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [8450, 3, 32, 32], and int32 labels [8450]: 0 for the pagoda, 1 for the dahlia.

    Each photograph is reduced to a third by the mean of 3x3 pixels. Every window in a square of 96x96 around the object is a
    patch: 65 x 65 of them, row by row. Raises UserError when scikit-learn ships other photographs.
    """
    patches = np.concatenate([_windows(_square(*photograph)) for photograph in PHOTOGRAPHS])
    return patches, np.repeat(np.arange(len(PHOTOGRAPHS), dtype=np.int32), len(patches) // len(PHOTOGRAPHS))


def _square(name: str, sha256: str, left: int, top: int) -> np.ndarray:
    """Return the square around the object, uint8 [96, 96, 3]."""
    from PIL import Image

    content = files("sklearn.datasets.images").joinpath(name).read_bytes()
    if sha256_of(content)[0] != sha256:
        raise UserError(
            f"source patches: scikit-learn's {name} is another photograph: install the lock's (`make setup`)"
        )
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float64)
    edge, left, top = BOX * REDUCED, left * REDUCED, top * REDUCED
    blocks = pixels[top : top + edge, left : left + edge].reshape(BOX, REDUCED, BOX, REDUCED, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _windows(square: np.ndarray) -> np.ndarray:
    """Return all windows of a picture [H, W, C], [N, C, 32, 32]."""
    windows = np.lib.stride_tricks.sliding_window_view(square, (SIDE, SIDE), axis=(0, 1))
    return windows.reshape(-1, *windows.shape[2:])
