"""Images in an npz, as OpenAI's evaluator takes them: ``arr_0`` uint8 [N, H, W, 3], and labels in ``arr_1`` where there are any.

They are read a part at a time: no more than that is in memory, however large the file is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sida.errors import UserError
from sida.foreign.arrays import Header, npz_headers, npz_parts
from sida.printing import one_line
from sida.scoring.label_rule import UNKNOWN, label_rule
from sida.stores.objects import sha256_of

IMAGES, LABELS = "arr_0", "arr_1"
MAGIC = b"PK\x03\x04"


def is_npz(path: Path) -> bool:
    """Return whether a file is taken for images in an npz: by its name, or by what it holds."""
    if path.suffix == ".npz":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC and IMAGES in npz_headers(path, str(path))
    except (OSError, UserError):
        return False  # another kind of zip, a published pickle of torch for instance


class NpzImages:
    """The first ``count`` images of an npz. Raises UserError for one that does not hold them at the recipe's size."""

    what = "an npz"

    def __init__(self, path: Path, count: int, channels: int, resolution: int) -> None:
        self.path, self.count, self._channels = path, count, channels
        self._label = f"images {path}"
        self._before = self._fingerprint()
        self._headers = npz_headers(path, self._label)
        self._check(self._headers.get(IMAGES), resolution)

    def digest(self) -> str:
        """Return the file's sha256."""
        return sha256_of(self.path)[0]

    def parts(self, batch: int) -> Iterator[np.ndarray]:
        """Yield uint8 [B, C, H, W]. Raises UserError for color where the recipe has gray, and for a file that changes meanwhile."""
        start = 0
        for part in npz_parts(self.path, IMAGES, self._label, count=self.count, rows=batch):
            if self._channels == 1:
                colored = (part != part[..., :1]).any(axis=(1, 2, 3))
                if colored.any():
                    raise UserError(
                        f"{self._label}: image {start + int(colored.argmax())} is in color, dataset.channels is 1: "
                        f"convert them to gray"
                    )
            pixels = part.transpose(0, 3, 1, 2)[:, : self._channels]
            yield np.ascontiguousarray(np.broadcast_to(pixels, (len(part), self._channels, *pixels.shape[2:])))
            start += len(part)
        if self._fingerprint() != self._before:
            raise UserError(f"{self.path}: changed while it was scored: score it again")

    def labels(self, histogram: Sequence[int] = ()) -> str:
        """Return the rule of the labels in the file, beside those of the training set."""
        header = self._headers.get(LABELS)
        if header is None or header.dtype.kind not in "iu" or header.shape[:1] != self._images.shape[:1]:
            return UNKNOWN
        if len(header.shape) != 1:
            return UNKNOWN
        (labels,) = npz_parts(self.path, LABELS, self._label, count=self.count, rows=self.count)
        if histogram and (labels.min() < 0 or labels.max() >= len(histogram)):
            raise UserError(
                f"{self._label}: {LABELS} has classes {labels.min()} to {labels.max()}, the training set {len(histogram)}: "
                f"is this another data set's?"
            )
        counts = (
            np.unique(labels, return_counts=True)[1] if not histogram else np.bincount(labels, minlength=len(histogram))
        )
        return label_rule([int(count) for count in counts], histogram)

    def notes(self) -> list[str]:
        """Return what the user should know of the file."""
        held = f"{IMAGES} {self._images.dtype} {list(self._images.shape)}"
        lines = [
            f"images: the first {self.count:,} of {held}; an npz does not say whether they had been compressed with loss"
        ]
        if "mu" in self._headers:
            lines.append(
                f"{self.path.name} holds statistics too (mu): its images are scored, these are for evaluation.reference"
            )
        return lines

    @property
    def _images(self) -> Header:
        header = self._headers[IMAGES]
        assert header is not None
        return header

    def _fingerprint(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _check(self, header: Header | None, resolution: int) -> None:
        expected = f"expected {IMAGES} uint8 [N, {resolution}, {resolution}, 3]"
        if header is None:
            held = ", ".join(one_line(name, 40) for name in list(self._headers)[:8]) or "nothing"
            statistics = {"mu", "sigma"} <= self._headers.keys()
            advice = (
                "statistics belong into evaluation.reference"
                if statistics
                else "save images as OpenAI's evaluator takes them"
            )
            raise UserError(f"{self._label}: holds {held}, {expected}: {advice}")
        shape, found = header.shape, f"{IMAGES} is {header.dtype} {list(header.shape)}"
        if header.dtype != np.uint8:
            raise UserError(f"{self._label}: {found}, {expected}: save whole numbers from 0 to 255")
        if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
            raise UserError(f"{self._label}: {found}, {expected}: put the channels last (transpose(0, 2, 3, 1))")
        if len(shape) != 4 or shape[3] not in (1, 3):
            raise UserError(f"{self._label}: {found}, {expected}")
        if shape[1:3] != (resolution, resolution):
            raise UserError(
                f"{self._label}: {found}, the recipe's images are {resolution}x{resolution}: "
                f"scores of resized images are other scores; make them at the right size"
            )
        if header.order == "F" and shape[0] > 1:
            raise UserError(f"{self._label}: {IMAGES} is stored column by column: save np.ascontiguousarray(images)")
        if shape[0] < self.count:
            raise UserError(
                f"{self._label}: holds {shape[0]:,} images, {self.count:,} are asked for: make more, or say "
                f"--images {max(shape[0], 2)} and compare only with scores of as many"
            )
