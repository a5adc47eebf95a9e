"""Recipes: everything that decides a number, as frozen typed models read from YAML.

A recipe says *what* is done; settings say *where*. A variant names its base in ``extends`` and changes single fields. Unknown
keys and wrong types are refused with the path of the field. Paths inside a recipe are relative to the recipe's file.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sida.errors import RecipeError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"

AUGMENT_DIM = 9  # labels of EDM's augmentation pipe (sida.numerics.augment)

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A frozen section of a recipe: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Network(Part):
    """The denoiser's architecture; teacher, fake score and generator share it."""

    architecture: Literal["ddpmpp", "ncsnpp", "adm", "edm2"]
    resolution: Positive
    channels: Positive
    label_dim: Count = 0
    augment_dim: Count = 0
    model_channels: Positive
    channel_mult: tuple[Positive, ...]
    num_blocks: Positive
    attn_resolutions: tuple[Positive, ...] = ()
    logvar_channels: Positive | None = None  # EDM2's uncertainty head; None: without it


class Sampler(Part):
    """The teacher's own sampler (Heun, EDM algorithm 2)."""

    steps: Annotated[int, Field(ge=2)]
    s_churn: Weight = 0.0
    s_min: Weight = 0.0
    s_max: float | None = None  # None: no upper limit
    s_noise: Weight = 1.0

    @property
    def nfe(self) -> int:
        """Network evaluations per image: no correction in the last step."""
        return 2 * self.steps - 1


class TeacherTraining(Part):
    """How this project trains the teacher (EDM's loss, equation 8) when it has none to fetch."""

    images: Positive
    batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    decay_from: Count
    ema_half_life: Positive
    P_mean: float = -1.2
    P_std: Annotated[float, Field(gt=0)] = 1.2
    dropout: Rate = 0.0
    seed: Count = 0


class Teacher(Part):
    """The pretrained diffusion model phi: where it comes from, what it is, how it is sampled."""

    address: str | None = None
    sha256: Sha256 | None = None
    licence: str
    network: Network
    sampler: Sampler
    train: TeacherTraining | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Teacher:
        if self.address is None and self.train is None:
            raise ValueError("needs an address to fetch from, or a train section to be trained by")
        return self


class Dataset(Part):
    """The training set as shards: source, size and labels."""

    source: Literal["digits"]
    licence: str
    resolution: Positive
    channels: Positive
    classes: Count = 0


class Method(Part):
    """Distillation: one code path for SiD, SiDA and SiD2A (method paper, algorithm 1). Counts are in images."""

    name: Literal["sid", "sida", "sid2a"]
    images: Positive
    batch: Positive
    loss_group: Positive
    alpha: float
    tmax: Annotated[float, Field(gt=0, le=1000)] = 800.0
    sigma_init: Annotated[float, Field(gt=0)] = 2.5
    P_mean: float = -1.2
    P_std: Annotated[float, Field(gt=0)] = 1.2
    fake_score_weight: Weight = 1.0  # ls
    discriminator_weight: Weight = 1.0  # lsd
    generator_weight: Weight = 100.0  # lsg
    adversarial_weight: Weight = 0.01  # lsg_gan
    generator_from: Count = 100_000  # theta steps only beyond this many images (adversarial methods)
    adversarial_from: Count = 200_000  # the adversarial term acts only beyond this many images
    fake_score_rate: Annotated[float, Field(gt=0)]  # lr
    generator_rate: Annotated[float, Field(gt=0)]  # glr
    decay_from: Count | None = None  # learning rates fall linearly to zero from here to `images`
    generator_beta1: Rate = 0.0
    clip_fake_score: bool = True  # per element to [-1, 1]; EDM with the adversarial term only
    ema_half_life: Positive = 500_000
    forced_normalization: bool = False  # EDM2: weights renormalised in training; SiD does so whatever this says
    dropout: Rate = 0.0
    augment: Annotated[float, Field(ge=0, le=1)] = 0.0
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    seed: Count = 0

    @property
    def adversarial(self) -> bool:
        """Whether the discriminator takes part (SiDA, SiD2A)."""
        return self.name != "sid"

    @model_validator(mode="after")
    def _batch_holds_whole_groups(self) -> Method:
        if self.batch % self.loss_group:
            raise ValueError(f"batch {self.batch} is not a multiple of loss_group {self.loss_group}")
        return self


class Detector(Part):
    """The feature network that images are compared with."""

    address: str
    sha256: Sha256 | None = None
    features: Positive


class Evaluation(Part):
    """How a score is measured. Selection and reporting use different seeds."""

    metric: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    detector: Detector
    images: Annotated[int, Field(ge=2)]  # generated images per seed range
    ranges: Positive = 3  # held-out seed ranges that are reported
    first_seed: Count = 1_000_000  # of the first reported range; the next ones follow it
    selection_images: Annotated[int, Field(ge=2)]
    selection_every: Positive  # in images seen
    stop_after: Positive | None = None  # end the run after so many selections without a better score; None: never

    @model_validator(mode="after")
    def _ranges_are_apart(self) -> Evaluation:
        if self.selection_images > self.first_seed:
            raise ValueError(f"selection seeds 0 to {self.selection_images} reach into the reported ones")
        return self


class Gate(Part):
    """What the teacher must score before anything is distilled, and what the generator is held to."""

    teacher_at_most: Annotated[float, Field(gt=0)]
    generator_within: Annotated[float, Field(gt=0)] = 1.0  # times the teacher's score
    on_failure: Literal["stop", "warn"] = "stop"


class Execution(Part):
    """What does not change a number: how the work is laid out on machines."""

    processes: Positive = 1
    threads: Positive = 1
    micro_batch: Positive | None = None  # per process, a multiple of the loss group; None: the whole share
    sampling_batch: Positive = 512
    checkpoint_every: Positive  # in images seen
    checkpoints_kept: Annotated[int, Field(ge=2)] = 2  # the newest; the best is kept besides
    non_finite_limit: Count = 100  # skipped samples and non-finite losses after which the run stops
    activation_checkpointing: bool = False  # less memory for more time: blocks are computed again in the backward pass
    compile: bool = False  # torch.compile; sums are rounded in another order, as on another kind of machine


class Recipe(Part):
    """One benchmark, from data to score."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
    version: Positive
    description: str
    teacher: Teacher
    dataset: Dataset
    method: Method
    evaluation: Evaluation
    gate: Gate
    execution: Execution

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        network, dataset = self.teacher.network, self.dataset
        if (network.resolution, network.channels) != (dataset.resolution, dataset.channels):
            raise ValueError(
                f"teacher.network is {network.channels} x {network.resolution}^2, "
                f"dataset is {dataset.channels} x {dataset.resolution}^2"
            )
        if self.method.augment and (network.augment_dim != AUGMENT_DIM or network.architecture == "edm2"):
            raise ValueError(
                f"method.augment {self.method.augment:g} needs a network with augment_dim {AUGMENT_DIM}, "
                f"this {network.architecture} has {network.augment_dim}: set method.augment to 0"
            )
        if network.logvar_channels and network.architecture != "edm2":
            raise ValueError(
                f"teacher.network.logvar_channels: only edm2 has that head, this is {network.architecture}"
            )
        if network.label_dim not in (0, dataset.classes):
            raise ValueError(f"teacher.network.label_dim {network.label_dim}, but dataset.classes {dataset.classes}")
        return self


# --- reading ------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and aliases, and reads 1e-4 as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: {key_node.value!r} is given twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_NUMBER = r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_NUMBER), list("-+0123456789."))


def names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find(name: str) -> Path:
    """A recipe's file, by name or by path.

    Raises RecipeError that suggests the nearest name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise RecipeError(f"no recipe file {name}: check the path, or see `python -m pipeline list`")
        return path.resolve()
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"no recipe {name!r}: {hint}`python -m pipeline list` shows all")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: not readable as YAML: {reason}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of fields, found {type(data).__name__}")
    return data


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _resolve(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's fields over those of the recipe it extends, addresses made absolute."""
    if path in seen:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(p.name for p in seen)}")
    data = _read(path)
    for section in (data.get("teacher"), (data.get("evaluation") or {}).get("detector")):
        if not isinstance(section, dict) or not isinstance(section.get("address"), str):
            continue
        if "://" not in section["address"]:
            section["address"] = (path.parent / section["address"]).resolve().as_uri()
    base = data.pop("extends", None)
    if base is None:
        return data
    sibling = path.parent / f"{base}.yaml"
    return _merge(_resolve(sibling if sibling.is_file() else find(str(base)), (*seen, path)), data)


def _explain(error: ValidationError, where: str) -> RecipeError:
    errors = error.errors()  # a mistyped required key is both unknown and missing: the former says more
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    field = ".".join(str(part) for part in first["loc"]) or "recipe"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _known_keys(first["loc"][:-1]), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        return RecipeError(f"{where}: {field}: unknown key; {hint}")
    if first["type"] == "missing":
        return RecipeError(f"{where}: {field}: is missing; add it")
    message = first["msg"].removeprefix("Value error, ")
    found = "" if isinstance(first.get("input"), dict) else f", found {str(first.get('input'))[:80]!r}"
    return RecipeError(f"{where}: {field}: {message}{found}")


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    model: Any = Recipe
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)


def parse(data: dict[str, Any], where: str) -> Recipe:
    """Resolved fields -> Recipe. Raises RecipeError with the field's path and what would be accepted."""
    try:
        return Recipe.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise _explain(error, where) from error
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}; use numbers, text, lists and mappings only") from error


def load(name: str) -> Recipe:
    """The recipe called ``name``, or the one in the file ``name``."""
    path = find(name)
    return parse(_resolve(path), str(path if "/" in name else path.name))
