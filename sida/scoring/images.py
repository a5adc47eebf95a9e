"""The step score_images: a folder of images, whoever made them, against the recipe's reference."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from sida.data.entries import MAX_ENTRY_BYTES
from sida.errors import UserError
from sida.launch.spec import ScoreOutcome
from sida.manifests import Manifest, ReferenceResult, ScoresResult, input_of
from sida.progress import Progress
from sida.recipe import Recipe
from sida.scoring.reference import load_statistics
from sida.scoring.score import SOURCES, check_reference, further_metrics, measured_in, note_if_few, scores_result
from sida.steps import From, Made, StepRun, step
from sida.stores.objects import fetch_object

if TYPE_CHECKING:
    from sida.data.decode import Decoder


def _asks(recipe: Recipe) -> dict[str, Any]:
    return {"count": recipe.evaluation.images, **further_metrics(recipe)}


def _repeats(made: Made[ScoresResult]) -> dict[str, Any]:
    measured, sha256 = measured_in(made.recipe, made.result), made.about.parameters["images"]
    reference = input_of(made.inputs, "reference", ReferenceResult)
    return dict(_result(made.recipe, reference, measured, made.recipe.evaluation.images, sha256))


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
    """Score the images of a folder, the first evaluation.images of them by name.

    Args:
        reference: Feature moments of the training set.

    Returns:
        The folder's score.
    """
    check_reference(recipe, reference.result)
    count = recipe.evaluation.images
    paths = find_images(Path(folder), count)
    sha256 = digest_of_files(paths)
    run.claim({"images": sha256}, reference=reference)
    return _measure(run, reference, paths, sha256)


def find_images(folder: Path, count: int) -> list[Path]:
    """Return the first ``count`` image files under a folder, by name. Raises UserError when there are fewer."""
    from sida.data.decode import ENDINGS, is_image
    from sida.data.folders import entries_of

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give a safetensors file or a folder of images")
    names = [entry.name for entry in entries_of(folder, folder) if is_image(entry.name)]
    shown = [Path(name) for name in names if not name.rpartition("/")[2].startswith(".")]
    paths = [folder / name for name in sorted(shown)]
    if len(paths) < count:
        raise UserError(
            f"{folder}: holds {len(paths):,} images ({', '.join(ENDINGS)}), {count:,} are asked for: make more, or say "
            f"--images {max(len(paths), 2)} and compare only with scores of as many"
        )
    return paths[:count]


def decoder(recipe: Recipe) -> Decoder:
    """Return prepare_data's decoder, of images that have the recipe's size already."""
    from sida.data.decode import Decoder

    channels, resolution = size_of_images(recipe)
    return Decoder("none", resolution, channels, recipe.dataset.modes)


class Images:
    """Image files, read a part at a time; what they were is counted."""

    def __init__(self, paths: list[Path], decode: Decoder) -> None:
        self.paths, self._decode = paths, decode
        self.kinds: Counter[str] = Counter()
        self.lossy = 0
        self._digest = hashlib.sha256()

    def read(self, part: slice) -> np.ndarray:
        """Return uint8 [N, C, H, W]. Raises UserError naming a file that is no image, of another size or mode."""
        from sida.data.decode import look_at
        from sida.data.entries import Unreadable

        images = []
        size = self._decode.resolution
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters about a file makes it unreadable
            for path in self.paths[part]:
                content = _content(path)
                self._digest.update(hashlib.sha256(content).digest())
                try:
                    look = look_at(content)
                    if look.size != (size, size):
                        raise UserError(
                            f"{path}: is {look.size[0]}x{look.size[1]}, the recipe's images are {size}x{size}: "
                            f"scores of resized images are other scores; make them at the right size"
                        )
                    images.append(self._decode(content).data)
                except Unreadable as error:
                    raise UserError(f"{path}: {error}") from error
                self.kinds[look.kind] += 1
                self.lossy += look.lossy
        return np.stack(images)

    @property
    def sha256(self) -> str:
        """Digest of the files read so far."""
        return self._digest.hexdigest()

    def notes(self) -> list[str]:
        """Return what the user should know of the files that were read."""
        kinds = "; ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        lines = [f"images: {kinds}"]
        if self.lossy:
            lines.append(
                f"{self.lossy:,} of {sum(self.kinds.values()):,} images were compressed with loss (JPEG, WEBP), those of the "
                f"reference were not once they had their size: the score holds the compression's error; save them as PNG"
            )
        return lines


def digest_of_files(paths: list[Path]) -> str:
    """Return the digest that :class:`Images` finds when it has read them all."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(_content(path)).digest())
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_ENTRY_BYTES:
            raise UserError(f"{path}: larger than {MAX_ENTRY_BYTES:,} bytes: refused as a bomb")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def size_of_images(recipe: Recipe) -> tuple[int, int]:
    """Return channels and resolution of the images that a recipe is about, those of latents decoded."""
    data = recipe.dataset
    return (3, data.latents.image_resolution) if data.latents else (data.channels, data.resolution)


def _measure(run: StepRun, reference: Manifest[ReferenceResult], paths: list[Path], sha256: str) -> ScoresResult:
    import torch

    from sida import devices
    from sida.numerics.frechet import sampling_bias
    from sida.scoring.detector import load_detector
    from sida.scoring.measure import evaluate
    from sida.scoring.sums import Sums

    recipe, statistics = run.recipe, reference.result
    device = devices.claim()
    detector = load_detector(fetch_object(run.store, statistics.detector)).to(device)
    batch, images = recipe.execution.batch_limit, Images(paths, decoder(recipe))
    other = statistics.second
    second = load_detector(fetch_object(run.store, other.detector)).to(device) if other else None
    sums = Sums(statistics.features, len(paths), recipe.evaluation.extra_metrics, other.features if other else None)
    progress = Progress(run.step.name, len(paths), "images")
    with torch.no_grad():
        for start in range(0, len(paths), batch):
            part = torch.from_numpy(images.read(slice(start, start + batch)))
            sums.add(detector, part.to(device), start, second)
            progress.update(start + len(part))
    if images.sha256 != sha256:
        raise UserError(f"{paths[0].parent}: its files changed while they were scored: score it again")
    for line in images.notes():
        run.note(line)
    real = load_statistics(run.store, statistics)
    distances = evaluate([sums], "the folder", real, run.store, statistics, device)
    bias = sampling_bias(real[1], len(paths))
    outcome = ScoreOutcome(**distances, sampling_bias=bias, images_per_second=0.0, batch=batch)
    note_if_few(run, len(paths), outcome)
    return _result(recipe, reference, outcome, len(paths), sha256)


def _result(
    recipe: Recipe, reference: Manifest[ReferenceResult], measured: ScoreOutcome, count: int, sha256: str
) -> ScoresResult:
    return scores_result(
        recipe,
        reference,
        measured,
        n=count,
        seeds=[],
        model="images",
        label=f"{count:,} images of a folder",
        nfe=None,
        sampler="files",
        checkpoint_sha256=sha256,
        licence="unknown: made elsewhere",
    )
