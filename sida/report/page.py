"""A finished run as one web page that needs nothing else: table, verdict, sample grid. Kubeflow's UI shows it."""

from __future__ import annotations

import base64
from html import escape

from sida.manifests import Manifest, RunResult
from sida.report.compare import table
from sida.report.regression import in_words
from sida.stores import open_store

GRID_BYTES = 2_000_000  # a larger picture is named, not shown: the page travels through KFP

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.3em 1em;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%;image-rendering:pixelated}code{overflow-wrap:anywhere}"
)


def page_of(manifest: Manifest) -> str:
    """HTML for a ``run`` manifest. Raises NotFound when the grid is gone from the store."""
    result = manifest.result
    assert isinstance(result, RunResult)
    head, *rows = table(manifest)
    store = open_store(manifest.about.store)
    grid, generator = store.address_of(result.grid.key), store.address_of(result.generator.key)
    standing = f"<p>{escape(in_words(result.regression))}</p>" if result.regression else ""
    picture = f"<p>samples: <code>{escape(grid)}</code></p>"
    if result.grid.size <= GRID_BYTES:
        content = base64.b64encode(store.read(result.grid.key)).decode()
        picture = f'<img alt="samples of teacher and generator" src="data:image/png;base64,{content}">' + picture
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(result.title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(result.title)}</h1><table>{_row(head, 'th')}{''.join(_row(row, 'td') for row in rows)}</table>"
        f"<p>{escape(result.verdict)}</p>{standing}{picture}<p>generator: <code>{escape(generator)}</code></p>"
        f"<p>licence: {escape(result.licence)}</p></html>\n"
    )


def _row(cells: tuple[str, ...], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
