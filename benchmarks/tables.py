"""The README's tables, as markdown, from the rows of the CSV. Each is empty when the rows hold nothing for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.ours import WITHOUT_KERNEL_S
from benchmarks.results import FOR_READING, OURS, WITHOUT_LATENTS

Row = Mapping[str, str]

SHOWN = (
    ("parquet-zstd-19", "Parquet zstd-19"),
    ("quantise+parquet-zstd-19", "quantise + Parquet zstd-19"),
    ("quantise+pcodec", "quantise + pcodec"),
    ("best-conventional", "best of these per column"),
)
OTHERS = (
    ("quantise+openzl", "OpenZL"),
    ("sz3", "SZ3"),
    ("zfp", "zfp"),
    ("klt", "KLT + residual"),
    ("bayes-net", "Bayes net"),
    ("autoencoder", "autoencoder + residual"),
    ("vae", "VAE + residual"),
    (WITHOUT_LATENTS, "latentpack, preview off"),
    (OURS, "**latentpack**"),
)
EVERY = (("parquet-zstd-3", "Parquet zstd-3"), *SHOWN, *OTHERS, (FOR_READING, "latentpack, `--favour reading`"))
NUMERIC = "numeric:"


def main_table(rows: Sequence[Row]) -> str:
    """Bytes of the conventional peers and ours; means, and where the numbers come from."""
    found = _by_case(rows)
    body, ratios = [], dict[str, dict[str, float]]()
    for dataset, bound in _cases(rows):
        ours = found.get((dataset, bound, OURS))
        if ours is None:
            continue
        ratio = _number(ours, "ratio_vs_conventional")
        if ratio > 0:
            ratios.setdefault(bound, {})[dataset] = ratio
        error = "lossless" if bound == "lossless" else f"{100 * float(ours['worst_error_share']):.1f} % of bound"
        sizes = [_bytes(found.get((dataset, bound, codec))) for codec, _ in SHOWN]
        speeds = [_speed(ours, key) for key in ("encode_mb_s", "decode_mb_s", SLOWLY)]
        body.append([dataset, _bound(bound), *sizes, f"**{_bytes(ours)}**", f"{ratio:.2f}", error, *speeds])
    means = ", ".join(f"{_bound(bound)} {_mean(values.values()):.2f}" for bound, values in ratios.items())
    exact = ratios.get("lossless", {})
    tables = {row["dataset"] for row in rows if _number(row, "columns") > 1}
    of_tables = ", ".join(
        f"{_bound(bound)} {_mean(ratio for name, ratio in (exact | values).items() if name in tables):.2f}"
        for bound, values in ratios.items()
        if tables and not tables.issuperset(exact | values)
    )
    every = ", ".join(f"{_bound(bound)} {_mean((exact | values).values()):.2f}" for bound, values in ratios.items() if values != exact)
    head = ["dataset", "bound", *(title for _, title in SHOWN), "**latentpack**", "ratio", "worst error"]
    head += ["encode MB/s", "decode", "by numpy"]
    return _table(head, body, 2) + (
        "\n\nBytes, everything counted (latents, corrections, model, metadata). *ratio* is the best conventional coding, of what the "
        f"report and the peers here measure the least, over latentpack: above 1 is a win; geometric mean: {means}"
        f"{f', and with datasets that have no float column, where no bound says anything, as they are: {every}' if every else ''}"
        f"{f'; so of tables alone, without arrays: {of_tables}' if of_tables else ''}. "
        "Bounds are shares of each float column's range. MB/s of Arrow bytes, on one core, once the model is trained: decoding with the C "
        "kernel, which is built where there is a compiler, and by numpy alone. "
        f"{_where([row for row in rows if row['codec'] in (OURS, *dict(SHOWN))])}: "
        "`make bench` writes this table from `benchmarks/results/bench.csv`."
    )


def peer_table(rows: Sequence[Row]) -> str:
    """Every other peer, in proportion to the best conventional coding."""
    found = _by_case(rows)
    shown = [(codec, title) for codec, title in OTHERS if any(row["codec"] == codec for row in rows)]
    cases = [case for case in _cases(rows) if (*case, OURS) in found]
    if {codec for codec, _ in shown} <= {OURS} or not cases:
        return ""
    body = [[case[0], _bound(case[1]), *(_ratio(found.get((*case, codec))) for codec, _ in shown)] for case in cases]
    budgets = sorted({float(row["budget_s"]) for row in rows if row.get("budget_s")})
    trained = f" Autoencoders train for {' or '.join(f'{b:g}' for b in budgets)} s." if budgets else ""
    return _table(["dataset", "bound", *(title for _, title in shown)], body, 2) + (
        "\n\nBest conventional coding over each peer's bytes: above 1 is smaller. All decode from their bytes alone, within the bound, "
        "checked. SZ3 and zfp code float columns, KLT numbers, the autoencoders numbers and categories; the rest of each is "
        f"conventional. *Bayes net*: two parents a column, adaptive counts.{trained} –: not measured; where it could not be, the "
        f"CSV says why.{_apart(rows)}"
    )


def _apart(rows: Sequence[Row]) -> str:
    """Which peers were measured elsewhere, or at another commit, than ours."""
    told, ours = dict[str, list[str]](), _places(rows, OURS)
    for codec, title in OTHERS:
        if not _places(rows, codec) <= ours:
            told.setdefault(_where([row for row in rows if row["codec"] == codec]), []).append(title)
    return "".join(f" {', '.join(titles)}: {where[0].lower()}{where[1:]}." for where, titles in told.items())


def _places(rows: Sequence[Row], codec: str) -> set[tuple[str, str]]:
    """Commits and processors that a codec was measured at."""
    return {(row.get("commit", ""), row.get("cpu", "")) for row in rows if row["codec"] == codec}


def _where(rows: Sequence[Row]) -> str:
    """When, at which commits and on what machine these rows were measured."""
    return f"Measured on {_all(rows, 'date')} at commit {_all(rows, 'commit', '`')} on {_all(rows, 'cores')} cores of {_machines(rows)}"


def speed_table(rows: Sequence[Row]) -> str:
    """Speeds and memory of every peer, means over datasets and bounds."""
    body = []
    for codec, title in EVERY:
        mine = [row for row in rows if row["codec"] == codec and row.get("decode_ns_cell")]
        if mine:
            means = [_plain(_mean(_number(row, key) for row in mine)) for key in _SPEEDS]
            trained = [_number(row, "train_s") for row in mine if row.get("train_s")]
            train = f"{sum(trained) / len(trained):.0f}" if trained and max(trained) > 0 else "–"
            worst = max(float(row["worst_error_share"] or 0) for row in mine)
            peak = max(_number(row, "peak_rss_bytes") for row in mine) / 2**20
            body.append([title, *means, train, f"{peak:,.0f}", f"{worst:.4f}"])
    if len(body) < 2:
        return ""
    head = ["peer", "encode MB/s", "decode MB/s", "encode ns a cell", "decode ns a cell", "training s", "peak MiB", "worst error / bound"]
    return _table(head, body, 1) + (
        "\n\nOne thread, each in its own process; geometric means, mean training, largest peak and error. Encoding includes "
        "choosing the best of the codings a peer has; latentpack's is making shards on one core, the median of three since format 1.16. "
        "What its report says of conventional codings is measured apart from that (`compare_s` in the CSV; a shard that has to be made "
        "again for it counts twice), and so is verification."
        f"{_EARLIER if any(row['codec'].startswith(OURS) and not _has(row, 'compare_s') for row in rows) else ''}"
    )


_EARLIER = (
    " Rows of latentpack without `compare_s` are of releases before: their whole encode stage, comparing included, by two threads, once."
)
SLOWLY = "decode_mb_s_without_kernel"
_SPEEDS = ("encode_mb_s", "decode_mb_s", "encode_ns_cell", "decode_ns_cell")


def read_table(rows: Sequence[Row]) -> str:
    """What reading a part of an archive moves and takes, in proportion to the whole; decoding without the C kernel."""
    body = []
    for row in rows:
        if row["codec"] == OURS and row.get("full_read_bytes") and not row["bound"].startswith(NUMERIC):
            parts = [
                f"{100 * _number(row, f'{part}_read_{unit}') / _number(row, f'full_read_{unit}'):.0f} %"
                for part in ("one_column", "thousand_rows")
                for unit in ("bytes", "s")
            ]
            seconds = f"{_number(row, 'full_read_s'):.2f}"
            slowly = f"{_number(row, SLOWLY):.1f}" if _has(row, SLOWLY) else "–"
            speed = f"{_number(row, 'decode_mb_s'):.1f}"
            body.append([row["dataset"], _bound(row["bound"]), _group(row["full_read_bytes"]), seconds, *parts, speed, slowly])
    if not body:
        return ""
    head = ["dataset", "bound", "whole, bytes", "s", "one column, bytes", "s", "1,000 rows, bytes", "s", "MB/s, C kernel", "numpy"]
    missing = f" –: the process was not done after {WITHOUT_KERNEL_S / 60:.0f} minutes." if any(cells[-1] == "–" for cells in body) else ""
    return _table(head, body, 2) + (
        "\n\nThe first column, and 1,000 rows from the middle, in proportion to a full read; opening included. The CSV has the first "
        f"reading of each process, too.{missing}"
    )


def blocks_table(rows: Sequence[Row]) -> str:
    """What 1,000 rows cost by the rows of a block, from the rows of `reads.csv`."""
    if not rows:
        return ""
    found = {(row["dataset"], int(row["block_rows"]), row["codec"]): row for row in rows}
    whole, body = dict[tuple[str, str], float](), []
    for dataset, block_rows in dict.fromkeys((row["dataset"], int(row["block_rows"])) for row in rows):
        cells = [dataset, f"{block_rows:,}"]
        for codec in ("parquet-zstd-19", OURS):
            row = found.get((dataset, block_rows, codec))
            n_bytes, moved = _number(row, "bytes"), _number(row, "thousand_rows_read_bytes")
            most = whole.setdefault((dataset, codec), n_bytes)
            cells += [_bytes(row), f"{100 * (n_bytes / most - 1):+.1f} %", f"{moved:,.0f}", f"{100 * moved / n_bytes:.1f} %"]
        body.append(cells)
    head = ["dataset", "rows a block"]
    for title in ("Parquet zstd-19", "**latentpack**"):
        head += [f"{title}, bytes", "more", "1,000 rows, bytes", "of the whole"]
    return _table(head, body, 1) + (
        "\n\nBlocks of `--block-rows`, or row groups: the least that is read for a row of all columns, and learned anew each. 1,000 rows "
        "from eight places, the mean; for latentpack snapshot and model count, for Parquet the footer. "
        f"Measured on {_all(rows, 'date')} at commit {_all(rows, 'commit', '`')}: `make bench-reads DATA=FOLDER` writes "
        "`benchmarks/results/reads.csv`."
    )


def favour_table(rows: Sequence[Row]) -> str:
    """What `--favour` is worth: bytes, and speeds with the C kernel and without."""
    found, body, ratios = _by_case(rows), [], list[float]()
    for dataset, bound in _cases(rows):
        pair = [found.get((dataset, bound, codec)) for codec in (OURS, FOR_READING)]
        if pair[1] is None:
            continue
        cells = [dataset, _bound(bound)]
        for row in pair:
            cells += [_bytes(row), *(_speed(row, key) for key in ("decode_mb_s", SLOWLY))]
        if (ratio := _number(pair[1], "ratio_vs_conventional")) > 0:
            ratios.append(ratio)
        body.append([*cells, f"{ratio:.2f}"])
    if not body:
        return ""
    head = ["dataset", "bound", "default, bytes", "MB/s, C kernel", "numpy"]
    return _table([*head, "`--favour reading`, bytes", "MB/s, C kernel", "numpy", "ratio"], body, 2) + (
        "\n\nAs above; the default is `--favour balance`. *ratio* is the best conventional coding over `--favour reading`; geometric mean "
        f"{_mean(ratios):.2f}."
    )


def deepsqueeze_table(rows: Sequence[Row]) -> str:
    """DeepSqueeze's setting: per cent of the CSV at bounds on every column of numbers."""
    found = _by_case(rows)
    shown = (("best-conventional", "best conventional"), ("vae", "VAE + residual"), (OURS, "**latentpack**"))
    body = []
    for dataset, bound in dict.fromkeys((row["dataset"], row["bound"]) for row in rows if row["bound"].startswith(NUMERIC)):
        cells = [found.get((dataset, bound, codec)) for codec, _ in shown]
        shares = [f"{100 * _number(r, 'bytes') / _number(r, 'csv_bytes'):.2f} %" if _has(r, "bytes", "csv_bytes") else "–" for r in cells]
        body.append([dataset, _bound(bound.removeprefix(NUMERIC)), *shares])
    if not body:
        return ""
    return _table(["dataset", "bound", *(title for _, title in shown)], body, 2) + (
        "\n\nIn per cent of the table as CSV, as DeepSqueeze (SIGMOD 2020) states it: the bound is a share of the range of every column of "
        f"numbers, integers included. Measured on {_all(rows, 'date')} at commit {_all(rows, 'commit', '`')}: `make bench-deepsqueeze "
        "DATA=FOLDER` writes `benchmarks/results/deepsqueeze.csv`."
    )


def scale_table(rows: Sequence[Row]) -> str:
    """Peak memory of runs over more and more rows, from the rows of `scale.csv`."""
    if not rows:
        return ""
    body = []
    for row in rows:
        sizes = [_group(row["rows"]), *(f"{_number(row, key) / 1e6:,.0f} MB" for key in ("arrow_bytes", "archive_bytes", "peak_rss_bytes"))]
        body.append([*sizes, *(f"{_number(row, key):.0f}" for key in ("train_s", "encode_s", "verify_s"))])
    return _table(["rows", "as Arrow", "archive", "peak memory", "train s", "encode s", "verify s"], body, 0) + (
        "\n\nOne run each over made-up telemetry, a file a million rows, at ±0.1 %: what a run holds at a time does not grow with the "
        f"dataset. Measured on {_all(rows, 'date')} at commit {_all(rows, 'commit', '`')}: `make scale` writes "
        "`benchmarks/results/scale.csv`."
    )


def preview_table(rows: Sequence[Row]) -> str:
    """Errors of previews at the same bytes, from the rows of `preview.csv`."""
    if not rows:
        return ""
    found = {(row["dataset"], row["share"], row["codec"]): row for row in rows}
    body = []
    for dataset, share in dict.fromkeys((row["dataset"], row["share"]) for row in rows):
        pair = [found.get((dataset, share, codec)) for codec in ("klt", "vae")]
        cells = [c for r in pair for c in ((_bytes(r), _error(r)) if r and _has(r, "bytes", "error") else ("–", "–"))]
        less = f"{100 * (1 - _number(pair[1], 'error') / _number(pair[0], 'error')):.0f} %" if all(_has(r, "error") for r in pair) else "–"
        body.append([dataset, f"{100 * float(share):g} %", *cells, less])
    return _table(["dataset", "of the archive", "KLT, bytes", "error", "VAE, bytes", "error", "less"], body, 1) + (
        "\n\nPreviews of tables of 100,000 rows or more at the same share of the lossless archive, or at the bytes of that share "
        "that both can use: latents of all rows and the model are counted. The VAE is the middle one of three seeds, the "
        "least and the most of their errors in brackets. The error is the mean over columns of RMSE over standard deviation, "
        "wrong categories as one column; 1 is as good as the means. "
        f"Measured on {_all(rows, 'date')} at commit {_all(rows, 'commit', '`')}: `benchmarks/preview.py` "
        "writes `benchmarks/results/preview.csv`."
    )


def _error(row: Row) -> str:
    """With those of the best and the worst seed, where they differ."""
    ends = [f"{_number(row, key):.3f}" for key in ("error_least", "error_most") if _has(row, key)]
    return f"{_number(row, 'error'):.3f}" + (f" ({ends[0]} to {ends[1]})" if len(set(ends)) > 1 else "")


def _table(head: Sequence[str], body: Sequence[Sequence[str]], n_left: int) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + ":--|" * n_left + "--:|" * (len(head) - n_left)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in body)])


def _cases(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["dataset"], row["bound"]) for row in rows if not row["bound"].startswith(NUMERIC)))


def _by_case(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row["dataset"], row["bound"], row["codec"]): row for row in rows if row.get("bytes")}


def _machines(rows: Sequence[Row]) -> str:
    """The processor that most was measured on, and which of ours were on others: speeds of two processors do not compare."""
    if not any(row["codec"] == OURS for row in rows):
        return _all(rows, "cpu")
    most = Counter(row["cpu"] for row in rows).most_common(1)[0][0]
    elsewhere = dict[str, list[str]]()
    for row in rows:
        if row["codec"] == OURS and row["cpu"] != most and row["dataset"] not in elsewhere.setdefault(row["cpu"], []):
            elsewhere[row["cpu"]].append(row["dataset"])
    return most + "".join(f" (latentpack of {', '.join(names)}: {cpu}, so that speeds do not compare)" for cpu, names in elsewhere.items())


def _all(rows: Sequence[Row], key: str, quote: str = "") -> str:
    return ", ".join(f"{quote}{value}{quote}" for value in dict.fromkeys(row[key] for row in rows))


def _mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values if value > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _number(row: Row | None, key: str) -> float:
    return float((row or {}).get(key) or "nan")


def _has(row: Row | None, *keys: str) -> bool:
    return row is not None and all(row.get(key) for key in keys)


def _speed(row: Row | None, key: str) -> str:
    """MB/s, without digits nobody needs."""
    speed = _number(row, key)
    return "–" if math.isnan(speed) else f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"


def _ratio(row: Row | None) -> str:
    return f"{_number(row, 'ratio_vs_conventional'):.2f}" if _has(row, "ratio_vs_conventional") else "–"


def _bytes(row: Row | None) -> str:
    return _group(row["bytes"]) if row else "–"


def _plain(value: float) -> str:
    """Three digits, never an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _group(n_bytes: str) -> str:
    return f"{int(n_bytes):,}"


def _bound(bound: str) -> str:
    return bound if bound == "lossless" else f"±{bound.replace('%', ' %')}"
