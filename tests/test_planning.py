"""`plan`: memory by part, hours, storage, and what to change; on a counted cost that is given here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sida import planning, recipe
from sida.errors import UserError
from sida.planning import GIB, GPUS, Machines, plan
from sida.recipe import Recipe
from sida.training.cost import IterationCost, PhaseCost
from tests.pipeline.test_verbs import pipeline

COST = IterationCost(
    10**9, 10**7, 10**12, 3 * 10**11, PhaseCost(5 * 10**12, GIB // 4, 0, 0), PhaseCost(7 * 10**12, GIB // 2, GIB, 0)
)


def of(
    name: str = "cifar10-uncond", gpus: int = 4, gpu: str = "h100", micro: int | None = None
) -> planning.ResourcePlan:
    return plan(recipe.load(name), COST, Machines(1, gpus, GPUS[gpu]), micro)


def test_states_of_the_networks_are_ten_times_the_parameters_in_float32() -> None:
    made = of()
    states = [value for name, value in made.memory.items() if name.split()[0] in ("weights", "teacher", "EMA,", "Adam")]
    assert sum(states) == 9 * 4e9
    assert made.memory["gradients (one network at a time)"] == 4e9
    assert made.memory["activations at the micro-batch"] == 17 * GIB  # phase B's: a round's, and 32 images'


def test_a_smaller_micro_batch_needs_less_memory_and_more_rounds() -> None:
    whole, small = of(micro=64), of(micro=32)
    assert (whole.division.rounds, small.division.rounds) == (1, 2)
    assert small.memory_bytes < whole.memory_bytes
    assert small.work == whole.work


def test_hours_are_flops_over_a_stated_share_of_the_peak() -> None:
    made = of()
    flops = 300e6 * COST.A.flops + (300e6 - 100e3) * COST.B.flops  # phase B is left out of the warm-up
    expected = flops / (67e12 * planning.UTILIZATION) / 3600
    assert made.work.distilling == pytest.approx(expected)
    assert made.hours == pytest.approx(made.work.total / 4)
    half = of("ffhq-64")  # float16
    flops -= 100e6 * (COST.A.flops + COST.B.flops)
    assert half.work.distilling == pytest.approx(flops / (989e12 * planning.UTILIZATION) / 3600)
    data_free = of("cifar10-uncond-sid")  # without warm-ups
    images = recipe.load("cifar10-uncond-sid").method.images
    assert data_free.work.distilling == pytest.approx(images * 12e12 / (67e12 * planning.UTILIZATION) / 3600)
    assert 0 < made.work.selecting_share < 0.05


def test_masks_take_time_in_float32_s_units_and_no_other() -> None:
    masked = replace(COST, A=replace(COST.A, masks=10**7), B=replace(COST.B, masks=2 * 10**7))
    for name in ("cifar10-uncond", "ffhq-64"):  # float32, float16
        loaded, machines = recipe.load(name), Machines(1, 4, GPUS["h100"])
        without, made = (plan(loaded, cost, machines).work for cost in (COST, masked))
        masks = loaded.method.images * 1e7 + (loaded.method.images - 100e3) * 2e7
        expected = masks * planning.MASK_FLOPS / (67e12 * planning.UTILIZATION) / 3600
        assert made.distilling - without.distilling == pytest.approx(expected)
        assert replace(made, distilling=0) == replace(without, distilling=0)


def test_tf32_has_a_peak_of_its_own_for_the_networks_and_none_for_the_detector() -> None:
    plain = recipe.load("cifar10-uncond")
    rounded = plain.model_copy(update={"method": plain.method.model_copy(update={"precision": "tf32"})})

    def work(chosen: Recipe, gpu: str) -> planning.Work:
        return plan(chosen, COST, Machines(1, 4, GPUS[gpu])).work

    for gpu, gain in (("a100", 156 / 19.5), ("h100", 494.5 / 67), ("v100", 1)):
        assert work(plain, gpu).distilling / work(rounded, gpu).distilling == pytest.approx(gain)
    detector = 3 * 50_000 * planning.DETECTOR_FLOPS["inception"] / (67e12 * planning.UTILIZATION) / 3600
    networks = 3 * 50_000 * 1e12 / (494.5e12 * planning.UTILIZATION) / 3600
    assert work(rounded, "h100").scoring == pytest.approx(networks + detector)
    for gpu in GPUS.values():
        assert gpu.float32 <= gpu.tf32 < gpu.half


def test_what_does_not_fit_is_told_what_would() -> None:
    made = of(gpu="v100")
    assert not made.fits
    assert any("--gpu" in word for word in planning.advice(made))
    for word in planning.advice(of(gpu="l40s", micro=64, gpus=1)):
        if word.startswith("execution.micro_batch"):
            micro = int(word.split()[1])
            assert of(gpu="l40s", micro=micro, gpus=1).fits


def test_advice_keeps_the_numbers_first() -> None:
    cost = IterationCost(10**8, 10**6, 10**12, 10**11, PhaseCost(1, 0, 0, 0), PhaseCost(1, GIB, 0, 0))
    made = plan(recipe.load("cifar10-uncond"), cost, Machines(1, 1, GPUS["h100"]), 128)
    assert not made.fits
    assert planning.advice(made)[0] == "execution.micro_batch: 64 (the numbers stay the same)"


@pytest.mark.parametrize(
    ("gpus", "micro", "words"),
    [
        (3, None, ["3 GPUs", "use 1, 2, 4, 8, 16, 32, 64, 128, 256 "]),
        (4, 48, ["micro-batch 48", "whole loss groups", ": 8, 16, 32, 64:"]),
        (1, 16, ["micro-batch 16", ": 32, 64, 128, 256:"]),
        (64, 32, ["micro-batch 32", "share of 4", ": 1, 2, 4:"]),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_what_would(
    gpus: int, micro: int | None, words: Sequence[str]
) -> None:
    with pytest.raises(UserError) as caught:
        of(gpus=gpus, micro=micro)
    assert all(word in str(caught.value) for word in words)


def test_more_gpus_than_loss_groups_share_them() -> None:
    division = of(gpus=64).division
    assert (division.micro_batch, division.span, division.rounds) == (4, 8, 1)
    small = of(gpus=4, micro=8).division  # for less memory
    assert (small.span, small.rounds) == (4, 8)
    assert of(gpus=8).division.span == 1


def test_storage_counts_data_checkpoints_and_networks() -> None:
    storage = of().storage
    assert storage["data set"] == 50_000 * (4 + 3 * 32 * 32)
    assert storage["checkpoints (2 kept)"] == 2 * 8 * 4e9
    assert of("imagenet-512-edm2-xs-sid").storage["data set"] == 4 * 1_281_167


def test_the_first_machine_holds_a_checkpoint_in_its_memory_and_in_a_temporary_file() -> None:
    made = of(gpus=2)
    assert made.host == {"copy of a checkpoint": 8 * 4e9, "allowance (processes)": 2 * planning.PROCESS_BYTES}
    assert made.disk["TMPDIR: a checkpoint"] == 8 * 4e9
    assert made.disk["SIDA_CACHE, with an S3 store"] == 8 * 4e9 + 4e9 + made.storage["data set"]


def test_plan_prints_what_it_counted_and_answers_by_its_status() -> None:
    said = pipeline("plan", "digits", "--json")
    assert said.returncode == 0, said.stderr
    made = json.loads(said.stdout)
    assert made["fits"] and made["gpus"] == 2
    assert made["forwards"]["A"] + made["forwards"]["B"] == pytest.approx(
        12, abs=0.7
    )  # small: the first layer, which needs no input gradient, counts
    assert made["memory_bytes"] == pytest.approx(sum(made["memory"].values()))
    text = pipeline("plan", "digits", "--gpu", "t4", "--gpus", "16").stdout
    assert "It fits:" in text and "Adam" in text
    assert "micro-batch 8 (loss groups of 32, each on 4 GPUs)" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--gpu", "h1"), ["--gpu h1", "h100"]),
        (("digits", "--gpus", "0"), ["--gpus", "'0'"]),
        (("digits", "--utilization", "35"), ["--utilization", "35", "0.35"]),
        (("digits", "--gpus", "3"), ["3 GPUs"]),
        (("digits", "--micro-batch", "33"), ["micro-batch 33", "16, 32, 64"]),
        (("digit",), ["did you mean 'digits'"]),
    ],
)
def test_a_mistake_is_one_line_with_status_2(arguments: tuple[str, ...], words: list[str]) -> None:
    said = pipeline("plan", *arguments)
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert all(word in line for word in words), line
