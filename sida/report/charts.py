"""Curves as inline SVG that follows the page's light or dark colors. matplotlib draws, no display is needed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

_INK = "#010203"  # stands for the page's own text color, see _element
COLORS = ("#d9480f", "#1c7ed6", "#2b8a3e", "#9c36b5", "#a67c00", "#0c8599")  # each readable on white and on near-black


@dataclass(frozen=True)
class Chart:
    """Lines over thousands of images; ``levels`` are horizontal lines with a name each."""

    title: str
    unit: str
    lines: Mapping[str, Points]
    levels: Mapping[str, float] = field(default_factory=dict)
    logarithmic: bool = False

    @property
    def empty(self) -> bool:
        """True when there is nothing to draw."""
        return not any(self.lines.values())


def svg(chart: Chart, width: float = 5.2, height: float = 3.0) -> str:
    """Return one ``<svg>`` element; the same chart gives the same bytes."""
    with _drawing(chart.title, width, height) as (figure, axes):
        for (name, points), color in zip(chart.lines.items(), COLORS * len(chart.lines), strict=False):
            if not points:
                continue
            marker = "o" if len(points) < 40 else ""
            x, y = zip(*points, strict=True)
            axes.plot(x, y, label=name, color=color, marker=marker, markersize=3.5, linewidth=1.6)
        for (name, level), style in zip(chart.levels.items(), ("--", ":", "-.") * len(chart.levels), strict=False):
            axes.axhline(level, label=f"{name}: {level:.3g}", color=_INK, linestyle=style, linewidth=1.2)
        if chart.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_plain_number)
            axes.yaxis.set_minor_formatter(_plain_number)
        axes.set_xlabel("thousands of images seen (kimg)")
        axes.set_ylabel(chart.unit)
        axes.grid(alpha=0.2, color=_INK)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize="small", borderpad=0)
        return _element(figure, chart.title)


def intervals(rows: Sequence[tuple[str, float, float]], unit: str, width: float = 7.6) -> str:
    """Return one ``<svg>``: a dot and a bar for each (name, mean, half of its 95% interval), the first on top."""
    title = "intervals " + " ".join(name for name, _, _ in rows)
    with _drawing(title, width, 0.55 + 0.38 * len(rows)) as (figure, axes):
        for place, ((_, mean, half), color) in enumerate(zip(rows, COLORS * len(rows), strict=False)):
            color = _INK if place == len(rows) - 1 else color  # the teacher
            axes.errorbar(mean, -place, xerr=half, fmt="o", color=color, capsize=4, markersize=6, linewidth=2)
        axes.set_yticks([-place for place in range(len(rows))], [f"{name}: {mean:.3f}" for name, mean, _ in rows])
        axes.set_ylim(0.6 - len(rows), 0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{unit} (the lower the better)")
        axes.grid(axis="x", alpha=0.2, color=_INK)
        return _element(figure, title)


@contextmanager
def _drawing(title: str, width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty figure and its axes, under settings that hold until it is written."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.family": "sans-serif",
        "text.parse_math": False,  # names are text: a dollar sign is one
        **{name: _INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")},
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.tick_params(which="both", labelsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        yield figure, axes


def _plain_number(value: float, place: float) -> str:
    """Return the label of a tick at 1, 2 or 5 times a power of ten; empty for others."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _element(figure: Figure, title: str) -> str:
    """Return the ``<svg>`` alone: sized and colored by the page, with ids that no other chart has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S)
    text = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", text)
    prefix = re.sub(r"[^a-z]+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", text)
    text = re.sub(r"\s+\n", "\n", text.replace(_INK, "currentColor"))
    return text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()
