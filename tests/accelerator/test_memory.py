"""`plan`'s memory against the bytes that tensors of the accelerator hold, counted while networks of full size train."""

from __future__ import annotations

import pytest

from scripts import benchmarks
from sida import recipe
from sida.gpus import GPUS, Machines
from sida.numerics.networks import layers
from sida.numerics.networks.build import build_network
from sida.planning import plan
from sida.training.cost import EmptyDraws, iteration_cost
from sida.training.iteration import Distillation, Networks
from sida.training.memory import Held, accumulate
from sida.worker.ranks import Processes
from tests.accelerator.device import device, moved, shapes
from tests.accelerator.made import EmptyData, fused

QUICK = ("cifar10-uncond",)  # EDM2: test_sharded_memory.py
ROWS = [row.name for row in benchmarks.rows() if benchmarks.kind(row) == row.name]


def most_held(loaded: recipe.Recipe, micro: int) -> int:
    """Bytes at the peak of both phases, in a round after the first, with Adam's moments and the best generator there."""
    network, method = loaded.teacher.network, loaded.method
    with shapes():
        networks = Networks.start(moved(build_network(network.model_dump(), method.dropout)))  # type: ignore[arg-type]
        one = method.model_copy(update={"batch": micro})
        job = Distillation(networks, one, EmptyDraws(), EmptyData(network), Processes(0, 1, device()), micro)
        with Held(device()) as held:
            for part in networks:
                held.add((*part.parameters(), *part.buffers()))
            best = [tensor.clone() for tensor in networks.theta_ema.state_dict().values()]
            for trained, optimiser in (
                (networks.psi, job.psi_updates.adam),
                (networks.theta, job.theta_updates.adam),
            ):
                accumulate(trained)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            seen = method.warm_up + 1
            for trained, phase in (
                (networks.theta, job.update_generator),
                (networks.psi, job.update_fake_score),  # last: what the frozen teacher keeps of the other is there
            ):
                accumulate(trained)
                phase(seen)
            assert best
            return held.peak


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_plan_counts_what_the_device_holds_within_10_percent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "scaled_dot_product_attention", fused)
    loaded = recipe.load(name)
    micro = loaded.execution.micro_batch or loaded.method.batch
    held = most_held(loaded, micro)
    cost = iteration_cost(loaded.teacher.network, loaded.method, loaded.execution)
    planned = plan(loaded, cost, Machines(1, 1, GPUS["h100"]), micro)
    allowance = planned.memory["allowance (context, fragments)"]
    assert planned.memory_bytes - allowance == pytest.approx(held, rel=0.1)
    print(f"{name}: {held / 2**30:.2f} GiB held, {(planned.memory_bytes - allowance) / 2**30:.2f} planned")
