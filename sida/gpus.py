"""GPUs that `plan` knows, as their makers' data sheets have them, and machines that hold some."""

from __future__ import annotations

from dataclasses import dataclass

UTILIZATION = 0.35  # of the peak that the convolutions of these networks reach; measure yours with benchmarks/gpu.py
LINK_UTILIZATION = 0.7  # allowance: the share of a link's rate that messages of some 100 MB reach
NETWORK = 50.0  # GB/s of a machine in one direction, unless said otherwise: one port of 400 Gbit/s


@dataclass(frozen=True)
class Gpu:
    """A GPU: memory in GiB; dense peak in TFLOP/s by precision; rate of its link to the others of its machine."""

    title: str
    memory_gib: float
    float32: float
    tf32: float  # float32's, where tensor cores know no TF32
    half: float  # float16 and bfloat16, accumulated in float32
    link: float  # GB/s in one direction: NVLink's, else PCIe's

    def peak(self, precision: str) -> float:
        """Return FLOP/s of matrix products and convolutions in a recipe's ``precision``."""
        return 1e12 * {"float32": self.float32, "tf32": self.tf32}.get(precision, self.half)


GPUS = {
    "b200": Gpu("NVIDIA B200", 180, 75, 1125, 2250, 900),
    "h200": Gpu("NVIDIA H200 SXM", 141, 67, 494.5, 989, 450),
    "h100": Gpu("NVIDIA H100 SXM", 80, 67, 494.5, 989, 450),
    "h100-pcie": Gpu("NVIDIA H100 PCIe", 80, 51, 378, 756, 64),
    "a100": Gpu("NVIDIA A100 80 GB", 80, 19.5, 156, 312, 300),
    "a100-40": Gpu("NVIDIA A100 40 GB", 40, 19.5, 156, 312, 300),
    "l40s": Gpu("NVIDIA L40S", 48, 91.6, 183, 362, 32),
    "a10": Gpu("NVIDIA A10", 24, 31.2, 62.5, 125, 32),
    "l4": Gpu("NVIDIA L4", 24, 30.3, 60, 121, 32),
    "v100": Gpu("NVIDIA V100 SXM2 32 GB", 32, 15.7, 15.7, 125, 150),
    "t4": Gpu("NVIDIA T4", 16, 8.1, 8.1, 65, 16),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 24, 82.6, 82.6, 165, 32),
}


@dataclass(frozen=True)
class Machines:
    """Machines that the recipe would run on."""

    nodes: int
    gpus: int  # per node
    gpu: Gpu
    utilization: float = UTILIZATION
    network: float = NETWORK  # GB/s of a machine in one direction

    @property
    def world(self) -> int:
        """Processes, one for each GPU."""
        return self.nodes * self.gpus

    def rate(self, alike: int = 1, *, across: bool) -> float:
        """Bytes a second of one message that goes round, within machines or ``across`` them.

        ``alike``: such messages that leave a machine at once and share its network.
        """
        link = self.gpu.link * 1e9
        return LINK_UTILIZATION * (min(link, self.network * 1e9 / alike) if across else link)
