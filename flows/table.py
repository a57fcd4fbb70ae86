"""Plain-text tables for the terminal: the end of a run, and what `info`, `verify` and `vacuum` say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.words import cells, clip, counted, human_bytes, human_count, human_number, human_saving, printable

if TYPE_CHECKING:
    from flows.report import ColumnReport, RunReport

MAX_COLUMNS_SHOWN = 40
MIN_WIDTH, MAX_WIDTH = 40, 160


def run_table(report: RunReport, width: int | None = None) -> str:
    """The end of `latentpack run`: what was stored, what it saved, what proves it, where to look."""
    from flows.report import NOTHING_TO_DO  # pydantic is not there where archives are but read

    width = _width(width)
    head = f"{printable(report.source)} → {printable(report.archive)}"
    lines = [head, f"snapshot {report.snapshot}, {counted(report.rows, 'row')}" + _new_rows(report)]
    if report.status == NOTHING_TO_DO:
        return "\n".join(line.rstrip() for line in [*lines, "", *_sizes(report), "", report.verdict])
    lines += ["", *_sizes(report), "", report.verdict]
    if report.lines:
        lines += ["", *_columns(report, width), "", *_helped(report, width)]
    if report.latent.role == "distortion" and report.latent.comparison:
        title = "siblings compared at the same error (bytes are estimates on the sample)"
        lines += ["", title, *_siblings(report.latent.comparison, width)]
    lines += ["", *_facts(report)]
    return "\n".join(line.rstrip() for line in lines)


def _beside(n: int) -> str:
    return f" (and {n} older)" if n else ""


def info_table(value: Mapping[str, Any]) -> str:
    """What `latentpack info` prints, from `flows.inventory.inventory`."""
    lines = [
        f"{printable(value['archive'])}: format {value['format']},"
        f" snapshot {value['snapshot']}{_beside(value['n_snapshots'] - 1)},"
        f" {counted(value['rows'], 'row')}, {counted(len(value['columns']), 'column')}",
        "",
        *_byte_rows(value["archive_bytes"], _without_unfinished(value)),
    ]
    if value.get("unfinished_bytes"):
        lines.append("    (unfinished: of runs that were interrupted or are at work, in no snapshot; see `latentpack vacuum`)")
    if value.get("raw_bytes"):
        lines.append(f"  {'raw objects':<14}{value['raw_bytes']:>16,} B  {value['ratio_vs_raw']:8.2f}× the archive")
    if value.get("conventional_bytes"):
        lines.append(
            f"  {'conventional':<14}{value['conventional_bytes']:>16,} B"
            f"  {value['ratio_vs_conventional']:8.2f}× the archive"
        )
    lines += [
        "",
        *_aligned(
            [("column", "type", "coding", "tolerance")], [_info_row(c) for c in value.get("leaves", value["columns"])], "<<<<", _width(None)
        ),
    ]
    lines += ["", "snapshots"]
    for entry in value["snapshots"]:
        lines.append(f"  {entry['snapshot']:>4}  {entry['created_at']}  {entry['rows']:>14,} rows")
    for number, what in value.get("damaged_snapshots", {}).items():
        lines.append(f"  {number:>4}  damaged: {printable(what)}; `latentpack vacuum --keep N` lets it go")
    return "\n".join(line.rstrip() for line in lines)


def verify_table(value: Mapping[str, Any]) -> str:
    """What `latentpack verify` prints, from the JSON of `flows.verify.verify_archive`."""
    violations, mismatches = value.get("violations", 0), value.get("mismatches", 0)
    against = f", compared with {printable(str(value['source']))}" if value.get("source") else ""
    verdict = "ok" if not (violations or mismatches) else "FAILED"
    lines = [
        f"{verdict}: {counted(value.get('rows', 0), 'row')} decoded{against};"
        f" {violations:,} violations, {mismatches:,} mismatches"
    ]
    bad = [c for c in value.get("columns", []) if c.get("violations") or c.get("mismatches")]
    for column in bad:
        row = column.get("first_violation_row")
        where = f", first in row {row:,}" if row is not None else ""
        lines.append(
            f"  {printable(column['name'])}: {column.get('violations', 0):,} violations,"
            f" {column.get('mismatches', 0):,} mismatches{where}"
        )
    if value.get("digest"):
        lines.append(f"  digest of the decoded data: {value['digest']}")
    return "\n".join(lines)


def vacuum_table(result: Any, *, dry_run: bool) -> str:
    """What `latentpack vacuum` prints, from `storage.writer.VacuumResult`."""
    verb = "would remove" if dry_run else "removed"
    paths: Sequence[str] = result.paths
    gone = f", {len(result.snapshots):,} of them snapshots" if result.snapshots else ""
    head = f"{verb} {len(paths):,} objects, {human_bytes(result.n_bytes)}{gone}" if paths else "nothing to remove"
    lines = [head, *(f"  {printable(path)}" for path in paths)]
    if result.n_pending:
        from storage.claims import GRACE_S

        what = f"{result.n_pending:,} objects, {human_bytes(result.pending_bytes)}"
        lines.append(f"kept {what}, of unfinished runs younger than {GRACE_S / 3600:.0f} hours: the next run may go on from them")
    return "\n".join(lines)


def _width(width: int | None) -> int:
    cells = shutil.get_terminal_size((100, 24)).columns if width is None else width
    return max(MIN_WIDTH, min(MAX_WIDTH, cells))


def _new_rows(report: RunReport) -> str:
    if report.n_new_rows and report.n_new_rows != report.rows:
        return f", {report.n_new_rows:,} of them new from {counted(report.n_new_files, 'file')}"
    return ""


def _sizes(report: RunReport) -> list[str]:
    lines = [f"  {'raw objects':<14}{report.raw_bytes:>16,} B  {human_bytes(report.raw_bytes):>8}"]
    lines += [
        f"  {'conventional':<14}{report.conventional_bytes:>16,} B  {human_bytes(report.conventional_bytes):>8}"
        "  best coding per column, same tolerance"
    ]
    lines += [
        f"  {'archive':<14}{report.archive_bytes:>16,} B  {human_bytes(report.archive_bytes):>8}  "
        f"{human_saving(report.saving_vs_raw_percent)} than raw ({report.ratio_vs_raw:.2f}×), "
        f"{human_saving(report.saving_vs_conventional_percent)} than conventional ({report.ratio_vs_conventional:.2f}×)"
    ]
    lines += _part_rows(report.archive_bytes, report.parts)
    if report.older.bytes >= 0.01 * report.archive_bytes > 0:
        lines.append(f"    ({human_bytes(report.older.bytes)} of it only older snapshots hold; see `latentpack vacuum --keep N`)")
    return lines


def _without_unfinished(value: Mapping[str, Any]) -> dict[str, int]:
    """The parts of an archive with a line more, where its metadata holds what no snapshot names."""
    parts, unfinished = dict(value["parts"]), value.get("unfinished_bytes", 0)
    if unfinished:
        parts |= {"metadata": parts["metadata"] - unfinished, "unfinished": unfinished}
    return parts


def _byte_rows(total: int, parts: Mapping[str, int]) -> list[str]:
    return [f"  {'archive':<14}{total:>16,} B  {human_bytes(total):>8}", *_part_rows(total, parts)]


def _part_rows(total: int, parts: Mapping[str, int]) -> list[str]:
    return [
        f"    {name:<12}{n_bytes:>16,} B  {human_bytes(n_bytes):>8}  {100 * n_bytes / total if total else 0:5.1f} %"
        for name, n_bytes in parts.items()
    ]


def _columns(report: RunReport, width: int) -> list[str]:
    shown = sorted(report.lines, key=lambda c: -max(c.bytes, c.conventional_bytes))[:MAX_COLUMNS_SHOWN]
    header = ("column", "coding", "bytes", "conventional", "smaller", "tolerance", "worst error", "violations")
    lines = _aligned([header], [column_cells(c) for c in shown], "<<>>>>>>", width)
    if len(shown) < len(report.lines):
        lines.append(f"… and {len(report.lines) - len(shown):,} smaller columns: see the report")
    return lines


def column_cells(column: ColumnReport) -> tuple[str, ...]:
    """A line of the table of columns: its name, coding, bytes, conventional bytes, saving, tolerance, worst error, violations."""
    other = column.conventional_bytes
    return (
        printable(column.name),
        printable(column.coding),
        f"{column.bytes:,}",
        f"{other:,}",
        f"{100 * (1 - column.bytes / other):.1f} %" if other else "–",
        tolerance_text(column),
        error_text(column),
        f"{column.violations:,}",
    )


def tolerance_text(column: ColumnReport) -> str:
    """What may be lost of a column, in its own units: "lossless", "0.05", "0.02 rmse"."""
    return "lossless" if column.tolerance == 0 else human_number(column.tolerance) + " rmse" * (column.tolerance_kind == "rmse")


def error_text(column: ColumnReport) -> str:
    """What was lost of a column at most, of the kind its tolerance is of."""
    return f"{human_number(column.rmse)} rmse" if column.tolerance_kind == "rmse" else human_number(column.max_abs_error)


def _info_row(column: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        printable(column["name"]),
        printable(column["type"]),
        printable(column.get("coding", "")),
        printable(column.get("tolerance", "")),
    )


KINDS = {
    "vae": "VAE", "ae": "autoencoder", "klt": "KLT", "linear": "linear", "ista": "sparse dictionary (ISTA)",
    "uniform quantisation, conventional coding": "uniform steps, conventional coding",
}  # fmt: skip
SIBLING_HEAD = ("coding", "window", "latents", "bytes", "model", "zeros", "error", "")


def sibling_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of a comparison of base layers, under SIBLING_HEAD. The error of a distortion layer is its worst column's, of
    the target; a preview's is the mean over columns, of the standard deviation."""
    kind, n_bytes, sparsity, error = str(row.get("kind", "")), row.get("n_bytes"), row.get("sparsity"), row.get("error")
    return (
        printable(KINDS.get(kind, kind)),
        human_count(row.get("window")),
        human_count(row.get("n_latents")),
        human_count(n_bytes),
        human_count(row.get("model_bytes")),
        "–" if sparsity is None else f"{100 * sparsity:.1f} %",
        "–" if error is None else f"{100 * error:.1f} %",
        "chosen" if row.get("chosen") else "",
    )


def _siblings(comparison: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """The best of each kind, by bytes, and the chosen one."""
    kinds: list[str] = []
    shown = []
    for row in comparison:
        if row.get("chosen") or row.get("kind") not in kinds:
            kinds.append(str(row.get("kind")))
            shown.append(sibling_cells(dict(row, error=row.get("worst_ratio"))))
    return _aligned([SIBLING_HEAD], shown, "<>>>>>><", width)


def _helped(report: RunReport, width: int) -> list[str]:
    helped = [c for c in report.lines if c.learned and c.bytes < c.conventional_bytes]
    rest = [c for c in report.lines if c not in helped]
    lines = _listing("learning helped", helped, width) if helped else ["learning helped no column"]
    return lines + (_listing("learning did not help", rest, width) if rest else [])


def _listing(title: str, columns: Sequence[ColumnReport], width: int) -> list[str]:
    head = f"{title} ({len(columns)}): "
    text, used = head, 0
    for i, column in enumerate(columns):
        piece = ("" if i == 0 else ", ") + clip(printable(column.name), 30)
        if cells(text) + cells(piece) > width - 14 and i:
            return [text + f", … {len(columns) - used} more"]
        text, used = text + piece, used + 1
    return [text]


def _facts(report: RunReport) -> list[str]:
    lines = []
    worst = report.worst
    if worst is not None:
        from flows.report import error_share

        lines.append(f"worst error   {printable(worst.name)} at {100 * error_share(worst):.1f} % of its tolerance")
    check = report.verification
    if check.rows:
        lines.append(
            f"verified      {counted(check.rows, 'row')} decoded before the commit:"
            f" {check.violations:,} violations, {check.mismatches:,} mismatches"
        )
    transfer = report.transfer
    if transfer.full_read_bytes:
        lines.append(
            f"transfer      full read {human_bytes(transfer.full_read_bytes)}"
            f" ({human_saving(report.transfer_saving_percent)} than the raw objects)"
            + (f", preview {human_bytes(transfer.preview_bytes)}" if transfer.preview_bytes else "")
        )
    if report.latent.n:
        lines.append(f"latents       {latent_text(report)}")
    if report.preview.columns:
        lines.append(f"preview       {preview_text(report)}")
    if report.drift.ratio is not None:
        action = "model refreshed" if report.drift.refreshed else "model kept"
        lines.append(f"drift         new data costs {report.drift.ratio:.2f}× the bits of training data: {action}")
    seconds = report.seconds
    timing = ", ".join(f"{name} {getattr(seconds, name):.1f} s" for name in ("ingest", "train", "encode", "compare", "verify"))
    lines.append(f"time          {timing}; peak memory {human_bytes(report.peak_rss_bytes)}")
    if report.report_html:
        lines.append(f"report        {printable(report.report_html)}")
    if report.ui_url:
        local = " (`latentpack serve` keeps this server up)" if report.ui_url.startswith("http://127.0.0.1") else ""
        lines.append(f"Prefect run   {printable(report.ui_url)}{local}")
    return lines


def latent_text(report: RunReport) -> str:
    """The stored latents in words: what they are for, how many, how sparse."""
    latent = report.latent
    rows = "a row" if latent.window == 1 else f"a window of {latent.window} rows"
    used = "instead of the values" if latent.role == "distortion" else "for the preview"
    kind = KINDS.get(latent.kind, latent.kind)
    return f"{kind}, {latent.n} {rows}, {100 * latent.zero_fraction:.1f} % zeros, {human_bytes(latent.n_bytes)} {used}"


def preview_text(report: RunReport) -> str:
    """The quality of the preview in words, measured by decoding it."""
    preview = report.preview
    parts = []
    if preview.relative_rmse is not None:
        parts.append(f"RMSE {preview.relative_rmse:.2f} of the standard deviation")
    if preview.accuracy is not None:
        parts.append(f"{100 * preview.accuracy:.0f} % of the categories right")
    share = f" ({100 * preview.bytes / report.archive_bytes:.1f} % of the archive)" if report.archive_bytes else ""
    return f"{human_bytes(preview.bytes)} of latents{share} give {', '.join(parts) or 'a sketch'}"


def _aligned(header: list[tuple[str, ...]], rows: list[tuple[str, ...]], align: str, width: int) -> list[str]:
    """Columns side by side. What does not fit: the first column is cut first, then the last columns go."""
    table = header + rows
    widths = [max(cells(row[i]) for row in table) for i in range(len(align))]
    floor = min(widths[0], 12)
    while len(widths) > 2 and floor + sum(widths[1:]) + 2 * (len(widths) - 1) > width:
        widths.pop()
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = max(floor, min(widths[0], width - rest))
    lines = []
    for row in table:
        texts = [clip(row[i], widths[i]) for i in range(len(widths))]
        padded = [
            " " * (widths[i] - cells(t)) + t if align[i] == ">" else t + " " * (widths[i] - cells(t))
            for i, t in enumerate(texts)
        ]
        lines.append("  ".join(padded))
    return [lines[0], "─" * cells(lines[0]), *lines[1:]]
