"""Images that were compressed with loss against a reference that was not, or the reverse: a score holds the compression's error."""

from __future__ import annotations

from sida.data.prepare import LOSSY_FILES
from sida.manifests import DatasetResult, Manifest, ReferenceResult

SAVE = "the score holds the compression's error: save them as PNG"


def compression_note(lossy: int, total: int, reference: ReferenceResult, dataset: Manifest[DatasetResult]) -> str:
    """Return a warning about ``lossy`` of ``total`` images, with what is known of the reference's; empty where there is none."""
    count, known = dataset.result.count, dataset.about.notes.get(LOSSY_FILES)
    theirs = None if reference.origin == "published" or known is None else int(known)
    as_stored = dataset.result.transform == "none" and bool(theirs)
    these = lossy_in_words(lossy, total)
    if not lossy:
        if not as_stored:
            return ""
        return (
            f"{theirs:,} of the {count:,} images of the reference were compressed with loss and taken as they were, none of "
            f"these: the score holds that compression's error"
        )
    if as_stored:
        of_reference = f"{theirs:,} of the {count:,} of the reference, taken as they were"
        return f"{these}, and {of_reference}: compare with scores of the same kind"
    if theirs:
        return f"{these}; of the reference {theirs:,} of {count:,} were, before they had their size: {SAVE}"
    if theirs == 0:
        return f"{these}, those of the reference were not: {SAVE}"
    why = (
        "its statistics are published ones"
        if reference.origin == "published"
        else "an older version prepared its images"
    )
    return f"{these}; of the reference it is not known ({why}), and lossless images are the rule: {SAVE}"


def lossy_in_words(lossy: int, total: int) -> str:
    """Return how many images were compressed with loss."""
    return f"{lossy:,} of {total:,} images were compressed with loss (JPEG, WEBP)"
