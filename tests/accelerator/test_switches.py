"""What torch's switches say while networks and detectors compute: a GPU rounds nothing that it is not asked to round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sida import devices
from sida.launch.spec import TeachSpec
from sida.scoring.images import score_images
from sida.training import iteration
from sida.training.distill_loop import distill
from sida.training.teach_loop import teach
from tests.accelerator.device import Waits, device
from tests.accelerator.made import distillation
from tests.accelerator.test_workers import FEW, drawn_by, measured, referenced
from tests.training.digits_job import Bench, recipe

TF32 = FEW.replace("method: {", "method: {precision: tf32, ").replace("images: 96", "images: 48")
EXACT, ROUNDED = (False, False), (True, True)
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
HALF = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


def tf32() -> tuple[bool, bool]:
    """Whether float32 factors are rounded to TF32: of matrix products, of convolutions."""
    return MATMUL.allow_tf32, CUDNN.allow_tf32


@pytest.fixture(autouse=True)
def as_torch_starts() -> Iterator[None]:
    """torch's own settings before and after: TF32 in convolutions, half precision summed in half, no kernel tried out."""

    def reset() -> None:
        MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark = False, True, False
        for switch in HALF:
            setattr(MATMUL, switch, True)

    reset()
    yield
    reset()


@contextmanager
def watched() -> Iterator[dict[str, set[tuple[bool, bool]]]]:
    """The switches while a module of each class runs."""
    seen: dict[str, set[tuple[bool, bool]]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if any(isinstance(each, torch.Tensor) and each.is_meta for each in inputs):
            return  # only its shapes are looked at
        seen.setdefault(type(module).__name__, set()).add(tf32())

    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_claimed_device_is_exact_and_tries_kernels_out_unless_they_must_be_deterministic(
    accelerator: Waits, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setattr(CUDNN, "deterministic", deterministic)
    assert devices.claim().type == devices.kind()
    assert tf32() == EXACT
    assert [getattr(MATMUL, switch) for switch in HALF] == [False, False]
    assert CUDNN.benchmark is not deterministic


def test_a_cpu_s_switches_stay_as_they_are() -> None:
    assert devices.claim() == torch.device("cpu")
    assert (tf32(), CUDNN.benchmark) == ((False, True), False)


def test_products_are_rounded_for_tf32_alone_and_only_within() -> None:
    devices._allow_tf32(False, False)
    for precision in ("float32", "float16", "bfloat16"):
        with devices.products(precision):
            assert tf32() == EXACT
    with devices.products("tf32"):
        assert tf32() == ROUNDED
        with devices.products("float32"):
            assert tf32() == EXACT
        assert tf32() == ROUNDED
    assert tf32() == EXACT


class Products(TorchDispatchMode):
    """The switches while operators that they are for run, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[tuple[bool, bool]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in ("convolution", "convolution_backward", "mm", "addmm"):
            self.seen.setdefault(name, set()).add(tf32())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("precision", "expected"), [("float32", EXACT), ("float16", EXACT), ("tf32", ROUNDED)])
def test_an_iteration_rounds_its_networks_products_on_both_ways(
    accelerator: Waits, precision: str, expected: tuple[bool, bool]
) -> None:
    devices.claim()
    job = distillation("ddpmpp", device(), precision=precision, augment=0.0)
    with Products() as products:
        job.run(8)
    assert set(products.seen) == {"convolution", "convolution_backward", "mm", "addmm"}
    assert all(found == {expected} for found in products.seen.values()), products.seen
    assert tf32() == EXACT


def test_augmentation_is_exact_in_tf32_too(accelerator: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    augment, seen = iteration.augment, set()

    def noted(*arguments: Any) -> Any:
        seen.add(tf32())
        return augment(*arguments)

    monkeypatch.setattr(iteration, "augment", noted)
    distillation("ddpmpp", device(), precision="tf32", augment=0.15).run(8)
    assert seen == {EXACT}


def test_distil_rounds_in_its_networks_and_never_in_the_detector(here: Bench) -> None:
    devices.claim()
    with watched() as seen:
        distill(here.job(TF32, "tf32"))
    assert (seen["UNetBlock"], seen["DigitsDetector"]) == ({ROUNDED}, {EXACT})


def test_a_model_scored_in_tf32_is_seen_by_an_exact_detector(here: Bench) -> None:
    asked = FEW.replace("evaluation: {", "evaluation: {precision: tf32, ")
    for name, changes, expected in (("asked", asked, ROUNDED), ("method", TF32, ROUNDED), ("not", FEW, EXACT)):
        devices.claim()
        with watched() as seen:
            measured(here, changes, "teacher", name)
        assert (seen["UNetBlock"], seen["DigitsDetector"]) == ({expected}, {EXACT})


def test_teachers_train_and_references_are_computed_exactly(here: Bench) -> None:
    devices.claim()
    with watched() as seen:
        teach(here.job(TF32, "teach exactly", TeachSpec(dataset=here.ref("dataset"))))
        referenced(here)
    assert (seen["UNetBlock"], seen["DigitsDetector"]) == ({EXACT}, {EXACT})


def test_steps_that_use_the_device_without_workers_have_an_exact_detector_too(here: Bench, tmp_path: Path) -> None:
    """They claim it themselves: torch's own setting rounds in convolutions."""
    with watched() as seen:
        drawn_by(here, TF32)
    assert (seen["UNetBlock"], seen["DigitsDetector"]) == ({ROUNDED}, {EXACT})
    CUDNN.allow_tf32 = True
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(24):
        Image.new("L", (8, 8), number).save(folder / f"{number:02d}.png")
    with watched() as seen:
        score_images(recipe=recipe(here.folder, FEW), folder=str(folder), reference=here.inputs["reference"])
    assert seen["DigitsDetector"] == {EXACT}
