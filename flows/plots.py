"""The plots of a run report as SVG text: sizes, bytes by column, error against tolerance, training, latent sparsity.

matplotlib is imported when the first plot is drawn. No pyplot, no global state: safe in worker threads.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flows.report import RunReport, error_share
from flows.words import clip, human_bytes, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, CONVENTIONAL, WARNING = "#3b7dd8", "#a3adba", "#d1495b"
PARTS = {
    "latents": "#7b5cd6",
    "corrections": "#3b7dd8",
    "verbatim": "#38a3a5",
    "model": "#e09f3e",
    "metadata": "#8d99ae",
}
INK = "#777f8c"  # reads on white and on near-black; `themed` turns it into the page's own text colour
GRID = "#777f8c"
WIDTH_INCHES = 7.2
BASE_STAGES = ("preview", "distortion")
SEARCHES = {  # by how a stage begins: how it looks, and what it is
    "exact contexts": (PARTS["model"], "more contexts, on more rows"), "exact": (OURS, "columns, one after another"),
    "order": (PARTS["verbatim"], "columns moved"), "tensors": (PARTS["latents"], "tensors"),
    "draft": (CONVENTIONAL, "a draft, of fewer rows"),
}  # fmt: skip
MAX_BARS = 24
MAX_LABEL_CELLS = 22
MAX_DIMENSIONS = 256


def plots(report: RunReport) -> dict[str, str]:
    """Title -> SVG text, in reading order; a plot that would be empty is absent."""
    drawn: dict[str, str] = {}
    for title, (needed, draw) in _PLOTS.items():
        if needed(report):
            drawn[title] = draw(report)
    return drawn


def themed(svg: str) -> str:
    """The same SVG for inlining in a page: text and axes take the page's colour, so light and dark both read."""
    return svg.replace(INK, "currentColor")


def data_uri(svg: str) -> str:
    """An SVG as a data URI, for markdown images."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def _sizes(report: RunReport) -> str:
    figure, axes = _figure(1.75)
    bars = {"raw objects": report.raw_bytes, "conventional": report.conventional_bytes}
    for i, n_bytes in enumerate(bars.values()):
        axes.barh(i, n_bytes, color=CONVENTIONAL, height=0.62)
    left = 0
    for name, n_bytes in report.parts.items():
        if n_bytes:
            axes.barh(2, n_bytes, left=left, color=PARTS[name], height=0.62, label=name)
            left += n_bytes
    for i, n_bytes in enumerate([*bars.values(), report.archive_bytes]):
        axes.annotate(human_bytes(n_bytes), (n_bytes, i), xytext=(5, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(3), [*bars, "archive"])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.16 * max(1, report.raw_bytes, report.conventional_bytes, report.archive_bytes))
    _byte_axis(axes)
    _legend(axes, columns=5)
    return _svg(figure, "sizes")


def _bytes_by_column(report: RunReport) -> str:
    columns = sorted(report.lines, key=lambda c: -max(c.bytes, c.conventional_bytes))
    rows = [(c.name, c.bytes, c.conventional_bytes) for c in columns[:MAX_BARS]]
    rest = columns[MAX_BARS:]
    if rest:
        rows.append((f"{len(rest):,} others", sum(c.bytes for c in rest), sum(c.conventional_bytes for c in rest)))
    figure, axes = _figure(0.85 + 0.3 * len(rows))
    places = range(len(rows))
    axes.barh([p - 0.2 for p in places], [r[1] for r in rows], height=0.38, color=OURS, label="ours")
    axes.barh([p + 0.2 for p in places], [r[2] for r in rows], height=0.38, color=CONVENTIONAL, label="best conventional")
    _names(axes, [r[0] for r in rows])
    _byte_axis(axes)
    _legend(axes, columns=2)
    return _svg(figure, "columns")


def _error_by_column(report: RunReport) -> str:
    columns = sorted((c for c in report.lines if c.tolerance > 0), key=lambda c: -error_share(c))[:MAX_BARS]
    shares = [100 * error_share(c) for c in columns]
    figure, axes = _figure(0.75 + 0.22 * len(columns))
    colors = [WARNING if c.violations or s > 100 else OURS for c, s in zip(columns, shares, strict=True)]
    axes.barh(range(len(columns)), shares, height=0.6, color=colors)
    axes.axvline(100, color=WARNING, linewidth=1.2, linestyle="--")
    axes.set_xlim(0, max(110.0, 1.05 * max(shares)))
    axes.set_xlabel("worst error, % of the tolerance (dashed: the promise)", color=INK)
    _names(axes, [c.name + (" (rmse)" if c.tolerance_kind == "rmse" else "") for c in columns])
    return _svg(figure, "errors")


def _training_curve(report: RunReport) -> str:
    """The exact layer's search in one panel, order after order; each base layer in a panel of its own, in bits of its latents."""
    points = [p for p in report.training if _has_bits(p)]
    stages = list(dict.fromkeys(p.stage for p in points))
    layers = [stage for stage in stages if stage.startswith(BASE_STAGES)]
    searches = [stage for stage in stages if stage not in layers]
    figure, panels = _panels(bool(searches) + len(layers), 2.5)
    if searches:
        axes, told = panels[0], set[str]()
        for stage in searches:
            color, label = next((look for start, look in SEARCHES.items() if stage.startswith(start)), (OURS, stage))
            line = [(p.seconds, p.held_out_bits_per_row) for p in points if p.stage == stage and p.held_out_bits_per_row is not None]
            if line:
                marker = "D" if len(line) == 1 else "o"
                axes.plot(
                    *zip(*_thinned(line), strict=True), color=color, linewidth=1.5, marker=marker, markersize=3 + 2 * (len(line) == 1),
                    label=None if label in told else label,
                )  # fmt: skip
                told.add(label)
        axes.set_ylabel("bits a row, estimated", color=INK)
    for axes, stage in zip(panels[bool(searches) :], layers, strict=True):
        for color, label, name in (CONVENTIONAL, "training rows", "bits_per_row"), (OURS, "held-out rows", "held_out_bits_per_row"):
            known = [(p.seconds, getattr(p, name)) for p in points if p.stage == stage and getattr(p, name) is not None]
            if known:
                axes.plot(*zip(*_thinned(known), strict=True), color=color, linewidth=1.5, label=label)
        axes.set_ylabel(f"bits a row, {printable(stage)}", color=INK)
    for axes in panels:
        axes.set_xlabel("seconds", color=INK)
        axes.grid(axis="y", color=GRID, alpha=0.25, linewidth=0.6)
        _legend(axes, columns=2)
    return _svg(figure, "training")


def _latent_sparsity(report: RunReport) -> str:
    from matplotlib.ticker import MaxNLocator

    latent = report.latent
    shares = [100 * share for share in latent.zero_fraction_by_dimension[:MAX_DIMENSIONS]]
    figure, axes = _figure(2.4)
    axes.bar(range(1, len(shares) + 1), shares, color=PARTS["latents"], width=0.8)
    axes.axhline(100 * latent.zero_fraction, color=INK, linewidth=1.2, linestyle="--", label=f"all: {100 * latent.zero_fraction:.1f} %")
    axes.set_ylim(0, 100)
    axes.set_xlim(0.3, max(8, len(shares)) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    rows = f"a window of {latent.window} rows" if latent.window > 1 else "a row"
    more = f", the first {len(shares)} of {latent.n}" if latent.n > len(shares) else ""
    axes.set_xlabel(f"latent of {rows}{more}", color=INK)
    axes.set_ylabel("zeros, %", color=INK)
    axes.grid(axis="y", color=GRID, alpha=0.25, linewidth=0.6)
    _legend(axes, columns=1)
    return _svg(figure, "latents")


def _has_bits(point: Any) -> bool:
    return point.bits_per_row is not None or point.held_out_bits_per_row is not None


_PLOTS: dict[str, tuple[Callable[[RunReport], bool], Callable[[RunReport], str]]] = {
    "Bytes": (lambda r: r.archive_bytes > 0, _sizes),
    "Bytes by column": (lambda r: bool(r.lines), _bytes_by_column),
    "Error against tolerance": (lambda r: any(c.tolerance > 0 for c in r.lines), _error_by_column),
    "Training": (lambda r: any(map(_has_bits, r.training)), _training_curve),
    "Latent sparsity": (lambda r: bool(r.latent.zero_fraction_by_dimension), _latent_sparsity),
}


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure, panels = _panels(1, height_inches)
    return figure, panels[0]


def _panels(n: int, height_inches: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    figure.patch.set_alpha(0.0)
    panels: list[Axes] = list(figure.subplots(1, n, squeeze=False)[0])
    for axes in panels:
        axes.patch.set_alpha(0.0)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9, length=3)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    return figure, panels


def _names(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [clip(printable(name), MAX_LABEL_CELLS) for name in names])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID, alpha=0.25, linewidth=0.6)


def _byte_axis(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_bytes(round(value)) if value else "0"))


def _legend(axes: Axes, *, columns: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=columns,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            handlelength=1.2,
        )


def _thinned(points: list[tuple[float, float]], limit: int = 300) -> list[tuple[float, float]]:
    """At most about `limit` points, the last always among them."""
    step = max(1, len(points) // limit)
    return points[:-1][::step] + points[-1:]


def _svg(figure: Figure, salt: str) -> str:
    """SVG text with text kept as text; the same report gives the same bytes."""
    from matplotlib import rc_context

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "path.simplify": True}
    sink = io.StringIO()
    with rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs absent from matplotlib's fonts; the browser has them
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    svg = sink.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    return re.sub(r"\n\s*", "\n", svg)
