"""Pictures of the pages, for the documentation: of the report, the comparison, and MLflow's own pages, in headless Chromium.

    SIDA_RUNS=./runs python -m scripts.pictures RUN [--output docs/images]

RUN is the run whose page is shown. The store of SIDA_RUNS should hold a finished SiD and SiDA run of one benchmark, both in
MLflow's SQLite file (`sida track`). Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from PIL import Image

from sida.settings import settings

CHROMIUM = "/usr/bin/chromium"
COLORS = 128


def main() -> int:
    """Take them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", help="id of the run whose page is shown")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    runs = settings().runs
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 1240})
        page.set_default_timeout(180_000)
        page.goto((runs / args.run / "report.html").as_uri())
        _take(page, args.output / "report.png")
        page.goto((runs / "comparison" / "comparison.html").as_uri())
        page.locator("#b1").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#b1').scrollIntoView()")
        _take(page, args.output / "comparison.png")
        with _mlflow() as base:
            _mlflow_pages(page, base, args.output)
        chromium.close()
    return 0


def _mlflow_pages(page: Any, base: str, folder: Path) -> None:
    """The table of runs, the curves of two distillations, and the champion."""
    found = _api(base, "runs/search", {"experiment_ids": _experiments(base), "max_results": 100})["runs"]
    distilled = [r["info"] for r in found if r["info"]["run_name"].startswith("distill")][:2]
    experiment = distilled[0]["experiment_id"]
    page.set_viewport_size({"width": 1280, "height": 560})
    page.goto(f"{base}/#/experiments/{experiment}/runs")
    page.get_by_text(distilled[0]["run_name"].removeprefix("distill: "), exact=True).first.wait_for()
    _quiet(page)
    page.get_by_text("Model training", exact=True).click()
    page.wait_for_timeout(5000)
    _take(page, folder / "mlflow-runs.png")
    name = next(name for name in _metrics(found) if name.startswith("selection_"))
    fields = {"runs": [info["run_id"] for info in distilled], "metric": name, "experiments": [experiment]}
    query = urlencode({key: json.dumps(value) for key, value in (fields | {"plot_metric_keys": [name]}).items()})
    page.goto(f"{base}/#/metric?{query}")
    page.locator(".js-plotly-plot").first.wait_for()
    page.get_by_text("Step", exact=True).click()
    _quiet(page)
    _take(page, folder / "mlflow-curves.png")
    (model, *_) = _api(base, "registered-models/search?max_results=1")["registered_models"]
    page.set_viewport_size({"width": 1280, "height": 1200})
    page.goto(f"{base}/#/models/{model['name']}")
    page.get_by_text("champion").first.wait_for()
    _quiet(page)
    _take(page, folder / "mlflow-champion.png", {"x": 198, "y": 470, "width": 1082, "height": 620})


def _metrics(runs: list[dict[str, Any]]) -> list[str]:
    return sorted({metric["key"] for run in runs for metric in run["data"].get("metrics", [])})


def _experiments(base: str) -> list[str]:
    return [e["experiment_id"] for e in _api(base, "experiments/search?max_results=50")["experiments"]]


def _quiet(page: Any) -> None:
    """Close what MLflow opens by itself: its assistant, and what it tells about its news."""
    page.wait_for_timeout(5000)
    for _ in range(3):
        for button in page.get_by_role("button", name="Close").all():
            if button.is_visible():
                button.click()
    page.keyboard.press("Escape")
    page.wait_for_timeout(2000)


def _take(page: Any, path: Path, clip: dict[str, int] | None = None) -> None:
    """A small file: few colors are enough for text and lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, clip=clip)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path}  {path.stat().st_size:,} bytes", flush=True)


@contextmanager
def _mlflow() -> Iterator[str]:
    """`sida ui` for as long as it is needed; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "pipeline", "ui", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not _answers(base):
            if process.poll() is not None:
                raise SystemExit("error: `sida ui` ended: see what it says")
            time.sleep(1)
        yield base
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(base: str) -> bool:
    try:
        return urllib3.request("GET", f"{base}/health", retries=False, timeout=5).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _api(base: str, method: str, body: dict[str, Any] | None = None) -> Any:
    url = f"{base}/api/2.0/mlflow/{method}"
    answer = urllib3.request("GET" if body is None else "POST", url, json=body, timeout=120)
    return answer.json()


if __name__ == "__main__":
    sys.exit(main())
