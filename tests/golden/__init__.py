"""Recompute golden numbers of the authors' implementations: ``python -m tests.golden FOLDER``.

FOLDER holds safetensors and json files; what is computed (constructor arguments, scalars, sizes, draws) follows from them. Each
family of files has a module here; the pytest tests call the same code on ``tests/golden/data``.
"""

from tests.golden import augment, blocks, datasets, losses, losses_pure, metrics, networks, samplers, trajectories

FAMILIES = [networks, blocks, losses_pure, losses, samplers, metrics, augment, trajectories, datasets]
