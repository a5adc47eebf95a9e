"""Curves as inline SVG that follows the page's light or dark colors. matplotlib draws, no display is needed."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Points = Sequence[tuple[float, float]]

_INK = "#010203"  # stands for the page's own text color, see _inline
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
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_settings(chart.title)):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
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
            for place in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                place(_plain_number)
        axes.set_xlabel("thousands of images seen (kimg)")
        axes.set_ylabel(chart.unit)
        axes.tick_params(which="both", labelsize="small")
        axes.grid(alpha=0.2, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize="small", borderpad=0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), chart.title)


def intervals(rows: Sequence[tuple[str, float, float]], unit: str, width: float = 7.6) -> str:
    """Return one ``<svg>``: a dot and a bar for each (name, mean, half of its 95% interval), the first on top."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_settings("intervals " + " ".join(name for name, _, _ in rows))):
        figure = Figure(figsize=(width, 0.55 + 0.38 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for place, ((_, mean, half), color) in enumerate(zip(rows, COLORS * len(rows), strict=False)):
            color = _INK if place == len(rows) - 1 else color  # the teacher
            axes.errorbar(mean, -place, xerr=half, fmt="o", color=color, capsize=4, markersize=6, linewidth=2)
        axes.set_yticks([-place for place in range(len(rows))], [f"{name}: {mean:.3f}" for name, mean, _ in rows])
        axes.set_ylim(0.6 - len(rows), 0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{unit} (the lower the better)")
        axes.tick_params(labelsize="small")
        axes.grid(axis="x", alpha=0.2, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), "intervals " + " ".join(name for name, _, _ in rows))


def _settings(salt: str) -> Any:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "text.parse_math": False,  # names are text: a dollar sign is one
        **{name: _INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")},
    }


def _plain_number(value: float, place: float) -> str:
    """Return the label of a tick at 1, 2 or 5 times a power of ten; empty for others."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _inline(text: str, title: str) -> str:
    """Return the element alone: sized and colored by the page, with ids that no other chart has."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", text)
    prefix = re.sub(r"[^a-z]+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", text)
    text = re.sub(r"\s+\n", "\n", text.replace(_INK, "currentColor"))
    return text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()
