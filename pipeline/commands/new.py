"""Write a commented recipe for your own teacher and images.

The file is complete: change what differs, then look at `show` and `plan` before you run it. With --train the teacher is trained
on the images too, and scores are `fd_random`, distances of a fixed random network's features: it is written beside the recipe, and
neither a download nor a GPU is needed. docs/tutorial.md walks through it.

examples:
  sida new birds --teacher ./birds.pkl --images ./photographs --resolution 64
  sida new birds --classes 200 --output recipes-of-mine/birds.yaml
  sida new patches --train --images ./patches
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from string import Template

import yaml

from pipeline import output
from pipeline.arguments import argument, flag, output_file, whole
from sida import recipe
from sida.addresses import checked
from sida.disk import check_file, writing_whole
from sida.errors import UserError
from sida.recipe.texts import refuse_secret
from sida.stores.objects import sha256_of

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
ARGUMENTS = (
    argument("name", "NAME", "of the recipe: small letters, digits and hyphens"),
    argument("--teacher", "ADDRESS", "the teacher's file or address", default="teacher.pkl"),
    argument("--images", "ADDRESS", "folder or zip of the training images", default="images"),
    argument("--resolution", "N", "of the teacher: 32 (default), 64, ...", type=whole(1, 8192), default=32),
    argument("--classes", "N", "number of classes; 0 (default): none", type=whole(0, 1_000_000), default=0),
    argument("--output", "FILE", "default: NAME.yaml in this folder", type=output_file),
    flag("--train", "there is no teacher yet: train a small one on the images"),
)


def main(args: argparse.Namespace) -> int:
    """Check the result by reading it as a recipe, then write it."""
    path: Path = args.output or Path(f"{args.name}.yaml")
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", args.name):
        raise UserError(f"name {args.name!r}: use small letters, digits and hyphens, such as my-birds")
    if args.resolution < 16 or args.resolution & (args.resolution - 1):
        raise UserError(f"--resolution {args.resolution}: the template's networks take 16, 32, 64, ... ")
    if path.exists():
        raise UserError(f"{path}: exists already: remove it, or name another with --output")
    check_file(path, "the recipe")
    if args.train and args.teacher != "teacher.pkl":
        raise UserError("--teacher and --train: the teacher is there, or it is trained: leave one out")
    for option, address in (("--teacher", args.teacher), ("--images", args.images)):  # before anything is written
        refuse_secret(option, "", address)
        checked(address, option)
    detector, small = recipe.load("cifar10-uncond").evaluation.detector, args.resolution <= 32
    network = path.with_name(f"{args.name}-detector.safetensors")
    template = TEMPLATES / ("own-teacher.yaml" if args.train else "recipe.yaml")
    fields = _random_detector(network) if args.train else {"detector": detector.address, "sha256": detector.sha256}
    text = Template(template.read_text(encoding="utf-8")).substitute(
        name=args.name,
        path=path if path.parent != Path() else f"./{path}",
        teacher=_scalar(_relative(args.teacher, path)),
        images=_scalar(_relative(args.images, path)),
        resolution=args.resolution,
        classes=args.classes,
        channel_mult="[2, 2, 2]" if small else "[1, 2, 2, 2]",
        steps=18 if small else 40,
        detector=_scalar(fields["detector"] or ""),
        detector_sha256=fields["sha256"],
    )
    recipe.parse(yaml.load(text, Loader=recipe.Loader), str(path))  # noqa: S506 (a SafeLoader)
    with writing_whole(path, "the recipe") as draft:
        draft.write_text(text, encoding="utf-8")
    text = f"{path}: now change what differs, then `sida plan {path}`"
    if "://" not in args.images and not Path(args.images).exists():  # it may be for another machine, or a slip
        text += f"\n{args.images}: there are no images here yet: a run needs them (dataset.address)"
    output.result(args, text, recipe=path.absolute(), detector=network.absolute() if args.train else None)
    return 0


def _random_detector(path: Path) -> dict[str, str | None]:
    """Return the file of random features, written now; its digest is the same on every machine, and another file is refused."""
    from sida.scoring.random_features import write_random_features  # torch

    with writing_whole(path, "the detector") as draft:
        write_random_features(draft, channels=3)
        if path.exists() and sha256_of(path) != sha256_of(draft):
            raise UserError(
                f"{path}: another file is there, where the detector would be: move it, or take another NAME"
            )
    return {"detector": path.name, "sha256": sha256_of(path)[0]}


def _relative(address: str, recipe: Path) -> str:
    """Return a path given from here as it has to stand in the recipe's folder."""
    if "://" in address or Path(address).is_absolute() or recipe.parent == Path():
        return address
    return str(Path(address).absolute())


def _scalar(value: str) -> str:
    """Return a YAML scalar on one line, quoted where necessary."""
    return yaml.safe_dump(value, width=10_000).removesuffix("...\n").strip()
