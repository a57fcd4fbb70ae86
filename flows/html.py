"""A run report as one self-contained HTML page, and as markdown for the Prefect artifact. Every name is escaped."""

from __future__ import annotations

import html as escaping
from collections.abc import Mapping, Sequence

from flows.plots import data_uri, plots, themed
from flows.report import NOTHING_TO_DO, RunReport, error_share
from flows.table import SIBLING_HEAD, column_cells, latent_text, preview_text, sibling_cells
from flows.words import counted, human_bytes, human_saving, printable

MAX_URI_CHARS = 60_000
MAX_MARKDOWN_COLUMNS = 200

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5d6877;--line:#e1e5ea;--card:#f6f8fa;--page:#fff;
 --good:#1f8a4c;--bad:#c0392b;--ours:#3b7dd8;--warn:#e09f3e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--line:#2d3642;--card:#1a2029;--page:#11151b;
 --good:#4cc38a;--bad:#ff7b72;--ours:#6ea4ee}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:16px;margin:36px 0 10px}
.sub{color:var(--soft);margin:0 0 20px;overflow-wrap:anywhere}
.verdict{font-size:17px;padding:14px 18px;border-left:4px solid var(--ours);background:var(--card);
 border-radius:0 8px 8px 0;margin:0 0 20px}
.verdict.not{border-color:var(--warn)}
.verdict.bad{border-color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(145px,1fr));gap:12px}
.card{background:var(--card);border-radius:10px;padding:12px 16px}
.card b{display:block;font-size:21px;font-variant-numeric:tabular-nums;white-space:nowrap}
.card span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:5px 8px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:600}
th:first-child,td:first-child,.l{text-align:left}
td:first-child{max-width:230px;overflow:hidden;text-overflow:ellipsis}
.good{color:var(--good)}
.bad{color:var(--bad);font-weight:600}
.soft{color:var(--soft)}
.chosen{font-weight:600}
figure{margin:0;overflow-x:auto}
svg{width:100%;height:auto;max-width:860px;display:block}
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere;white-space:normal}
footer{margin-top:40px;color:var(--soft);font-size:13px}
"""
CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html(report: RunReport, drawn: Mapping[str, str] | None = None) -> str:
    """The whole page: no scripts, no external resources, readable in light and dark.

    drawn : title -> SVG from `flows.plots.plots`, drawn here when absent.
    """
    figures = plots(report) if drawn is None else drawn
    plotted = "".join(
        f"<section><h2>{_text(title)}</h2><figure>{themed(svg)}</figure></section>" for title, svg in figures.items()
    )
    title = _text(f"{printable(report.source)} → {printable(report.archive)}")
    body = [
        f"<h1>{title}</h1><p class=sub>{_text(_subtitle(report))}</p>",
        f'<p class="verdict{_verdict_class(report)}">{_text(report.verdict)}</p>',
        _cards(report),
        plotted,
        _columns(report),
        _parts(report),
        _preview(report),
        _siblings(report),
        _proof(report),
        f"<footer>{_text(report.writer or 'latentpack')}; ratios are the other's bytes over ours. "
        "Every stored byte counts but this report.</footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{CSP}">'
        f"<title>latentpack: {title}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def markdown(report: RunReport, drawn: Mapping[str, str] | None = None) -> str:
    """The report as markdown with the plots as SVG data URIs, each below MAX_URI_CHARS."""
    figures = plots(report) if drawn is None else drawn
    lines = [
        f"# {_cell(report.source)} → {_cell(report.archive)}",
        "",
        f"{_cell(_subtitle(report))}",
        "",
        f"**{_cell(report.verdict)}**",
        "",
        "| | bytes | | archive is |",
        "|:--|--:|--:|:--|",
        f"| raw objects | {report.raw_bytes:,} | {human_bytes(report.raw_bytes)}"
        f" | {human_saving(report.saving_vs_raw_percent)} |",
        f"| best conventional coding | {report.conventional_bytes:,} | {human_bytes(report.conventional_bytes)}"
        f" | {human_saving(report.saving_vs_conventional_percent)} |",
        f"| **archive** | **{report.archive_bytes:,}** | **{human_bytes(report.archive_bytes)}** | |",
        *(f"| – {name} | {n_bytes:,} | {human_bytes(n_bytes)} | |" for name, n_bytes in report.parts.items()),
        "",
        *(f"{label}: {value}  " for label, value in _proof_rows(report)),
    ]
    for title, svg in figures.items():
        uri = data_uri(svg)
        if len(uri) <= MAX_URI_CHARS:
            lines += ["", f"## {title}", "", f"![{title}]({uri})"]
    for title, compared in _comparisons(report).items():
        lines += ["", f"## {title}", "", f"| {' | '.join(SIBLING_HEAD)} |", "|:--|--:|--:|--:|--:|--:|--:|:--|"]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in compared]
        lines += ["", SIBLING_NOTES[title]]
    if report.lines:
        lines += [
            "",
            "## Columns",
            "",
            "| column | coding | bytes | conventional | smaller | tolerance | worst error | violations |",
            "|:--|:--|--:|--:|--:|--:|--:|--:|",
        ]
        lines += ["| " + " | ".join(map(_cell, column_cells(c))) + " |" for c in report.lines[:MAX_MARKDOWN_COLUMNS]]
        if len(report.lines) > MAX_MARKDOWN_COLUMNS:
            lines += ["", f"… and {len(report.lines) - MAX_MARKDOWN_COLUMNS:,} more columns in the HTML report."]
    return "\n".join(lines) + "\n"


def _subtitle(report: RunReport) -> str:
    parts = [f"snapshot {report.snapshot}", counted(report.rows, "row"), counted(len(report.columns), "column")]
    if report.n_new_rows and report.n_new_rows != report.rows:
        parts.append(f"{counted(report.n_new_rows, 'new row')} from {counted(report.n_new_files, 'file')}")
    return " · ".join([*parts, *(part for part in (report.run, report.created_at) if part)])


def _verdict_class(report: RunReport) -> str:
    if report.verification.violations or report.verification.mismatches:
        return " bad"
    if report.status == NOTHING_TO_DO or report.saving_vs_conventional_percent >= 0.5:
        return ""
    return " not"


def _cards(report: RunReport) -> str:
    violations = report.verification.violations + report.verification.mismatches
    cards = [
        (human_bytes(report.archive_bytes), "archive"),
        (f"{report.ratio_vs_raw:.2f}×", f"against raw ({human_bytes(report.raw_bytes)})"),
        (f"{report.ratio_vs_conventional:.2f}×", f"against conventional ({human_bytes(report.conventional_bytes)})"),
        (f"{violations:,}", "violations, by full decode"),
    ]
    if report.transfer.full_read_bytes:
        cards.append((human_bytes(report.transfer.full_read_bytes), "moved by a full read"))
    if report.transfer.preview_bytes:
        cards.append((human_bytes(report.transfer.preview_bytes), "moved by a preview"))
    shown = (f"<div class=card><b>{_text(figure)}</b><span>{_text(label)}</span></div>" for figure, label in cards)
    return f"<div class=cards>{''.join(shown)}</div>"


def _columns(report: RunReport) -> str:
    if not report.lines:
        return ""
    rows = []
    for column in report.lines:
        name, coding, ours, other, smaller, tolerance, error, violations = map(_text, column_cells(column))
        tone = "good" if column.bytes < column.conventional_bytes else "soft"
        alarm = " class=bad" if column.violations else ""
        share = f' title="{100 * error_share(column):.1f} % of the tolerance"' if column.tolerance > 0 else ""
        rows.append(
            f'<td title="{name}">{name}</td><td class=l>{coding}</td><td>{ours}</td><td>{other}</td>'
            f"<td class={tone}>{smaller}</td><td>{tolerance}</td><td{share}>{error}</td><td{alarm}>{violations}</td>"
        )
    head = (
        "<th>column</th><th class=l>coding</th><th>bytes</th><th>conventional</th>"
        "<th>smaller</th><th>tolerance</th><th>worst error</th><th>violations</th>"
    )
    return _section("Columns", head, rows)


def _parts(report: RunReport) -> str:
    total, older = report.archive_bytes or 1, [report.older.bytes] if report.older.bytes else []
    rows = [
        f"<td>{name}</td><td>{n_bytes:,}</td><td>{human_bytes(n_bytes)}</td><td>{100 * n_bytes / total:.1f} %</td>"
        for name, n_bytes in report.parts.items()
    ]
    rows += [
        f"<td><b>archive</b></td><td><b>{report.archive_bytes:,}</b></td>"
        f"<td><b>{human_bytes(report.archive_bytes)}</b></td><td></td>",
        *(f"<td class=soft>of it only in older snapshots</td><td class=soft>{n:,}</td><td></td><td></td>" for n in older),
        f"<td class=soft>reports, apart</td><td class=soft>{report.report_bytes:,}</td><td></td><td></td>",
    ]
    return _section("What the archive is made of", "<th>part</th><th>bytes</th><th></th><th>share</th>", rows)


def _preview(report: RunReport) -> str:
    preview = report.preview
    if not preview.columns:
        return ""
    rows = [
        f"<td>{_text(printable(c.name))}</td><td>{_percent(c.relative_rmse)}</td><td>{_percent(c.accuracy)}</td>"
        for c in preview.columns
    ]
    note = (
        f"The latents alone, {human_bytes(preview.bytes)}, and how near they come, measured by decoding the first block of every "
        "new shard. RMSE is relative to the column's standard deviation."
    )
    return _section("Preview", "<th>column</th><th>relative RMSE</th><th>right category</th>", rows, note)


AT_SAME_ERROR = "Siblings compared at the same error"
AT_SAME_BUDGET = "Previews compared at the same budget"
SIBLING_NOTES = {
    AT_SAME_ERROR: "Bytes for the whole dataset, decoder and encoder (model) included, estimated on the sample; the error is the "
    "worst column's on held-out rows, in per cent of its target. Chosen is what the shards of this run hold.",
    AT_SAME_BUDGET: "Bytes for the whole dataset, decoder and encoder (model) included, estimated on the sample; the error is the "
    "mean RMSE of the columns on held-out rows, in per cent of their standard deviations.",
}


def _comparisons(report: RunReport) -> dict[str, list[tuple[str, ...]]]:
    """Title -> rows of cells under SIBLING_HEAD."""
    found = {}
    if report.latent.role == "distortion" and report.latent.comparison:
        found[AT_SAME_ERROR] = [sibling_cells(dict(row, error=row.get("worst_ratio"))) for row in report.latent.comparison]
    if report.preview.comparison:
        found[AT_SAME_BUDGET] = [sibling_cells(dict(row, error=row.get("mean_ratio"))) for row in report.preview.comparison]
    return found


def _siblings(report: RunReport) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in SIBLING_HEAD)
    text = ""
    for title, compared in _comparisons(report).items():
        rows = ["".join(f"<td class={'chosen' if row[-1] else 'plain'}>{_text(cell)}</td>" for cell in row) for row in compared]
        text += _section(title, head, rows, SIBLING_NOTES[title])
    return text


def _proof(report: RunReport) -> str:
    rows = [
        f"<td>{_text(name)}</td><td class=l><code>{_text(value)}</code></td>" for name, value in _proof_rows(report)
    ]
    return _section("Proof and cost", "", rows)


def _section(title: str, head: str, rows: Sequence[str], note: str = "") -> str:
    """A titled table from escaped cells."""
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f"<section><h2>{_text(title)}</h2>{f'<p class=soft>{_text(note)}</p>' if note else ''}<div class=scroll><table>"
        f"{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table></div></section>"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


MADE_FOR = {
    "size": "the fewest bytes",
    "balance": "a balance: the fewest bytes up to 200,000 rows, of more rows what numpy alone reads soon where it takes little more",
    "reading": "reading soon where there is no C kernel",
}
"""`--favour`, in words."""


def _proof_rows(report: RunReport) -> list[tuple[str, str]]:
    check, seconds = report.verification, report.seconds
    rows = []
    if check.rows:
        rows.append(
            (
                "verified by decoding",
                f"{counted(check.rows, 'row')}, {check.violations:,} violations, {check.mismatches:,} mismatches",
            )
        )
    if check.digest:
        rows.append(("digest of the decoded data", check.digest))
    if report.model_digest:
        rows.append(("model", report.model_digest))
    if report.favours:
        rows.append(("made for", MADE_FOR.get(report.favours, report.favours)))
    if report.latent.n:
        rows.append(("latents", latent_text(report)))
    if report.preview.columns:
        rows.append(("preview", preview_text(report)))
    if report.drift.ratio is not None:
        action = "model refreshed" if report.drift.refreshed else "model kept"
        rows.append(("drift", f"new data costs {report.drift.ratio:.2f}× the bits of training data; {action}"))
    timing = " · ".join(f"{name} {getattr(seconds, name):.1f}" for name in ("ingest", "train", "encode", "compare", "verify"))
    rows += [("seconds", timing), ("peak memory", human_bytes(report.peak_rss_bytes))]
    return rows


def _text(text: str) -> str:
    return escaping.escape(text, quote=True)


def _cell(text: str) -> str:
    """Text that stays text in markdown, inside a table or a heading: what HTML or a table would take as its own becomes an
    entity, markdown's other signs a backslash and themselves (Prefect's headings show entities of those as they are)."""
    return "".join(f"&#{ord(c)};" if c in "|<>&" else f"\\{c}" if c in "*_`[]\\#!~$" else c for c in printable(text))
