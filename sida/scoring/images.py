"""The step score_images: images in a folder or an npz, whoever made them, against the recipe's reference."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from sida.data.entries import MAX_ENTRY_BYTES
from sida.errors import UserError
from sida.launch.spec import ScoreOutcome
from sida.manifests import DatasetResult, Manifest, ReferenceResult, ScoresResult, input_of
from sida.progress import Progress
from sida.recipe import Recipe
from sida.scoring.compression import compression_note
from sida.scoring.label_rule import LABELS, UNKNOWN
from sida.scoring.npz_images import NpzImages
from sida.scoring.reference import load_statistics
from sida.scoring.result import check_reference, further_metrics, measured_in, note_if_few, scores_result
from sida.scoring.score import SOURCES
from sida.steps import From, Made, StepRun, carried, step
from sida.stores.objects import fetch_object

if TYPE_CHECKING:
    from sida.data.decode import Decoder


def _asks(recipe: Recipe) -> dict[str, Any]:
    return {"count": recipe.evaluation.images, **further_metrics(recipe)}


def _repeats(made: Made[ScoresResult]) -> dict[str, Any]:
    measured, sha256 = measured_in(made.recipe, made.result), made.about.parameters["images"]
    reference = input_of(made.inputs, "reference", ReferenceResult)
    what = made.about.parameters.get("form", Images.what)
    return dict(_result(made.recipe, reference, measured, made.recipe.evaluation.images, sha256, what))


@step(
    version=2,
    sources=(*SOURCES, "sida/data/decode.py", "sida/data/folders.py"),
    measures=True,
    asks=_asks,
    repeats=_repeats,
)
def score_images(
    run: StepRun,
    recipe: Recipe,
    folder: str,
    reference: Annotated[Manifest[ReferenceResult], From("reference_statistics")],
) -> ScoresResult:
    """Score the images of a folder, the first evaluation.images of them by name; or those of an npz (arr_0), in their order.

    Args:
        reference: Feature moments of the training set.

    Returns:
        The images' score.
    """
    check_reference(recipe, reference.result)
    images = open_images(Path(folder), recipe)
    sha256 = images.digest()
    form = {} if isinstance(images, Images) else {"form": images.what}
    run.claim({"images": sha256} | form, reference=reference)
    return _measure(run, reference, images, sha256)


def open_images(path: Path, recipe: Recipe) -> Images | NpzImages:
    """Return the images of a folder or of an npz, as many as the recipe scores. Raises UserError for fewer, or another size."""
    count = recipe.evaluation.images
    if path.is_file():
        return NpzImages(path, count, *recipe.dataset.picture)
    images = Images(find_images(path, count), decoder(recipe), count)
    images.check_first()
    return images


def find_images(folder: Path, count: int) -> list[Path]:
    """Return all image files under a folder, by name. Raises UserError when there are fewer than ``count``."""
    from sida.data.decode import ENDINGS, is_image
    from sida.data.folders import entries_of

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give a safetensors file, a folder of images or an npz")
    names = [entry.name for entry in entries_of(folder, folder) if is_image(entry.name)]
    shown = [Path(name) for name in names if not name.rpartition("/")[2].startswith(".")]
    paths = [folder / name for name in sorted(shown)]
    if len(paths) < count:
        raise UserError(
            f"{folder}: holds {len(paths):,} images ({', '.join(ENDINGS)}), {count:,} are asked for: make more, or say "
            f"--images {max(len(paths), 2)} and compare only with scores of as many"
        )
    return paths


def decoder(recipe: Recipe) -> Decoder:
    """Return prepare_data's decoder, of images that have the recipe's size already."""
    from sida.data.decode import Decoder

    channels, resolution = recipe.dataset.picture
    return Decoder("none", resolution, channels, recipe.dataset.modes)


class Images:
    """The first ``count`` of image files, read a part at a time; what they were is counted."""

    what = "a folder"

    def __init__(self, paths: list[Path], decode: Decoder, count: int) -> None:
        self.paths, self._decode = paths[:count], decode
        self._held = len(paths)
        self.kinds: Counter[str] = Counter()
        self.lossy = 0
        self._digest, self._before = hashlib.sha256(), ""

    def read(self, part: slice) -> np.ndarray:
        """Return uint8 [N, C, H, W]. Raises UserError naming a file that is no image, of another size or mode."""
        from sida.data.decode import look_at
        from sida.data.entries import Unreadable

        images = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters about a file makes it unreadable
            for path in self.paths[part]:
                content = _content(path)
                self._digest.update(hashlib.sha256(content).digest())
                try:
                    look = look_at(content)
                    self._check_size(path, look.size)
                    images.append(self._decode(content).data)
                except Unreadable as error:
                    raise UserError(f"{path}: {error}") from error
                self.kinds[look.kind] += 1
                self.lossy += look.lossy
        return np.stack(images)

    def check_first(self) -> None:
        """Raise UserError for a first image of another size: as all may be, it is said before anything is computed."""
        from sida.data.decode import look_at
        from sida.data.entries import Unreadable

        with suppress(Unreadable):  # which ``read`` tells
            self._check_size(self.paths[0], look_at(_content(self.paths[0])).size)

    def _check_size(self, path: Path, size: tuple[int, int]) -> None:
        side = self._decode.resolution
        if size != (side, side):
            raise UserError(
                f"{path}: is {size[0]}x{size[1]}, the recipe's images are {side}x{side}: scores of resized images are other "
                f"scores; make them at the right size"
            )

    def digest(self) -> str:
        """Return the digest of the files, whose contents are read for it."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(_content(path)).digest())
        self._before = digest.hexdigest()
        return self._before

    def parts(self, batch: int) -> Iterator[np.ndarray]:
        """Yield uint8 [B, C, H, W]. Raises UserError as ``read``, and for files that are not those of the digest any more."""
        for start in range(0, len(self.paths), batch):
            yield self.read(slice(start, start + batch))
        if self._digest.hexdigest() != self._before:
            raise UserError(f"{self.paths[0].parent}: its files changed while they were scored: score it again")

    def labels(self, histogram: Sequence[int] = ()) -> str:
        """Return the rule of the images' classes, which files do not tell."""
        return UNKNOWN

    def notes(self) -> list[str]:
        """Return what the files were that have been read: formats, modes, bits."""
        kinds = "; ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        return [f"images: {kinds}", *self._left_out()]

    def _left_out(self) -> list[str]:
        """Return a note on images that are not scored: the first by name may be of the first class folders alone."""
        if len(self.paths) == self._held:
            return []
        folders = {path.parent for path in self.paths}
        first = f"the first {len(self.paths):,} by name" + (
            f", of {len(folders):,} folders" if len(folders) > 1 else ""
        )
        return [f"the folder holds {self._held:,} images, of which {first} are scored"]


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_ENTRY_BYTES:
            raise UserError(f"{path}: larger than {MAX_ENTRY_BYTES:,} bytes: refused as a bomb")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _measure(
    run: StepRun, reference: Manifest[ReferenceResult], images: Images | NpzImages, sha256: str
) -> ScoresResult:
    import torch

    from sida import devices
    from sida.numerics.frechet import sampling_bias
    from sida.scoring.detector import load_detector
    from sida.scoring.measure import evaluate
    from sida.scoring.sums import Sums

    recipe, statistics = run.recipe, reference.result
    device = devices.claim()
    detector = load_detector(fetch_object(run.store, statistics.detector)).to(device)
    batch, count, start = recipe.execution.batch_limit, recipe.evaluation.images, 0
    other = statistics.second
    second = load_detector(fetch_object(run.store, other.detector)).to(device) if other else None
    sums = Sums(statistics.features, count, recipe.evaluation.extra_metrics, other.features if other else None)
    progress = Progress(run.step.name, count, "images")
    with torch.no_grad():
        for part in images.parts(batch):
            sums.add(detector, torch.from_numpy(part).to(device), start, second)
            start += len(part)
            progress.update(start)
    for line in images.notes():
        run.note(line)
    dataset = carried(reference, "dataset", DatasetResult)
    if isinstance(images, Images) and (note := compression_note(images.lossy, count, statistics, dataset)):
        run.note(note)
    run.notes[LABELS] = images.labels(dataset.result.histogram)
    real = load_statistics(run.store, statistics)
    distances = evaluate([sums], "the images", real, run.store, statistics, device)
    bias = sampling_bias(real[1], count)
    outcome = ScoreOutcome(**distances, sampling_bias=bias, images_per_second=0.0, batch=batch)
    note_if_few(run, count, outcome)
    return _result(recipe, reference, outcome, count, sha256, images.what)


def _result(
    recipe: Recipe, reference: Manifest[ReferenceResult], measured: ScoreOutcome, count: int, sha256: str, what: str
) -> ScoresResult:
    return scores_result(
        recipe,
        reference,
        measured,
        n=count,
        seeds=[],
        model="images",
        label=f"{count:,} images of {what}",
        nfe=None,
        sampler="files",
        checkpoint_sha256=sha256,
        licence="unknown: made elsewhere",
    )
