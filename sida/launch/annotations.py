"""What a TrainJob shows of its work, in annotations that its launching step writes: progress, and nodes taken from it.

``kubectl describe trainjob`` shows them, ``kubectl get trainjobs -o custom-columns=...`` as columns, ``status`` says them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sida.launch.pod_state import count_of
from sida.progress import duration

IMAGES, RATE, LEFT = "sida/images", "sida/rate", "sida/left"  # 1024/8192, 310.2/s, 2:38
NOISE = "sida/noise"  # at how many images the training turned to noise; empty: it has not
UPDATED = "sida/updated"  # when the three were, ISO 8601
DISRUPTIONS, DISRUPTION = "sida/disruptions", "sida/disruption"  # how often; the last one in words


def of_progress(event: dict[str, Any]) -> dict[str, str]:
    """Return the annotations of a progress event. Raises KeyError, TypeError or ValueError for one that is none."""
    done, total, rate = int(event["done"]), int(event["total"]), event.get("rate")
    left = duration(max(total - done, 0) / float(rate)) if rate else ""
    return {
        IMAGES: f"{done}/{total}",
        RATE: f"{float(rate):.4g}/s" if rate else "",
        LEFT: left,
        NOISE: f"{float(event['numbers']['noise_since']):.0f}" if "noise_since" in event.get("numbers", {}) else "",
        UPDATED: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def of_disruption(count: int, words: str) -> dict[str, str]:
    """Return the annotations of a job that has lost a pod to its node, in words, for the ``count``-th time."""
    return {DISRUPTIONS: str(count), DISRUPTION: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: {words}"}


def disruptions(job: dict[str, Any]) -> int:
    """Return how often that was so far."""
    return count_of(_of(job, DISRUPTIONS)) or 0


def in_words(job: dict[str, Any], *, ended: bool = False) -> str:
    """Return ``1,024 of 8,192 images, 310/s, 2:38 left``, and how often nodes were taken; empty where nothing is known.

    Of a job that has ``ended`` no progress is told: what was written last is older than its end; that it turned to noise is said.
    """
    done, total = (count_of(text) for text in (_of(job, IMAGES) + "/").split("/")[:2])
    parts = [f"{done:,} of {total:,} images"] if not ended and done is not None and total is not None else []
    parts += [_of(job, RATE)] if parts and _of(job, RATE) else []
    parts += [f"{_of(job, LEFT)} left"] if parts and _of(job, LEFT) not in ("", "0:00") else []
    if (since := count_of(_of(job, NOISE))) is not None:
        parts.append(f"turned to noise at {since:,} images (its log says more)")
    if count := disruptions(job):
        times = "once" if count == 1 else f"{count} times"
        parts.append(f"taken off a node {times}, last {_of(job, DISRUPTION)}")
    return ", ".join(parts)


def _of(job: dict[str, Any], name: str) -> str:
    return str((job["metadata"].get("annotations") or {}).get(name) or "")
