"""Compile a recipe for the profile's engine: for Kubeflow as IR YAML or Kubernetes objects, for Argo as a WorkflowTemplate.

Without --profile it is IR YAML, the images stay placeholders and pods ask for no more than the recipe's processors: for reading
and comparing. With one, images (by digest), environment, secrets by name, resources, retries and timeouts are those of the profile.

examples:
  sida compile digits --output digits.yaml
  sida compile digits --profile ./mine.yaml --kubernetes | kubectl apply -f -
"""

from __future__ import annotations

import argparse
import sys

from pipeline import profile, remote
from pipeline.arguments import ANY_PROFILE, RECIPE, argument, flag, output_file
from sida.disk import writing_whole

ARGUMENTS = (
    RECIPE,
    *remote.TO_COMPILE,
    ANY_PROFILE,
    argument("--output", "FILE", "write there instead of stdout", type=output_file),
    flag("--kubernetes", "on Kubeflow: Pipeline and PipelineVersion objects for kubectl, in place of IR YAML"),
)


def main(args: argparse.Namespace) -> int:
    """Compile and write."""
    cluster = profile.load(args.profile) if args.profile else None
    _, compiled = remote.compile_for(args, cluster, kubernetes=args.kubernetes)
    if cluster is None:
        print("note: no profile: the image is a placeholder, fit to be read but not to be run", file=sys.stderr)
    if args.output:
        with writing_whole(args.output, "--output") as draft:
            draft.write_text(compiled.text, encoding="utf-8")
        print(f"{compiled.version}: {args.output}", file=sys.stderr)
    else:
        print(compiled.text, end="")
    return 0
