"""Previews at the same bytes: the KLT against the autoencoder at 0.8 % of the archive, which a run takes, and at 2 and 3 %, over every row
of long tables.

    python benchmarks/preview.py --data FOLDER      every table of a folder with 100,000 rows or more

Bytes are the latents of all rows as they are stored, block by block, plus decoder and encoder. The error is what a fit minimises: the
mean over columns of RMSE over standard deviation, of which shares of wrong categories are one column. Both are fitted to the bytes of
the archive that `bench.csv` has, and again to what they fell short of; where one of them cannot use them all, the other has those it
used. The autoencoder is fitted from three seeds: the middle one counts, and the least and the largest error stand beside it.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks import readme  # noqa: E402
from benchmarks.bench import datasets  # noqa: E402
from benchmarks.codecs.dataset import load, profile_of  # noqa: E402
from benchmarks.ours import measure_ours  # noqa: E402
from benchmarks.results import OURS, machine, read_csv  # noqa: E402
from vae_core.base import BaseColumn, BaseLayer  # noqa: E402
from vae_core.base.cost import stored_bytes  # noqa: E402
from vae_core.base.discrete import code_candidates  # noqa: E402
from vae_core.base.search import MAX_INPUTS, klt_candidate  # noqa: E402
from vae_core.base.task import prepare  # noqa: E402
from vae_core.columns import plan_columns  # noqa: E402
from vae_core.encoding import even_spans  # noqa: E402
from vae_core.layers import PREVIEW_WINDOWS, base_columns, matrix, preview_rows, thinned  # noqa: E402
from vae_core.model import Sample  # noqa: E402

RESULTS, KNOWN = HERE / "results" / "preview.csv", HERE / "results" / "bench.csv"
FIELDS = (
    "dataset", "rows", "columns", "archive_bytes", "share", "codec", "bytes", "latent_bytes", "model_bytes", "window", "error",
    "error_least", "error_most", "accuracy", "train_s", "version", "commit", "date", "cpu", "cores",
)  # fmt: skip
LEAST_ROWS, SHARES, CODECS = 100_000, (0.008, 0.02, 0.03), ("klt", "vae")
SEEDS = {"klt": (0,), "vae": (0, 1, 2)}  # a KLT has one solution
BLOCK_ROWS, SAMPLE_ROWS, CLOSE, MOST_FITS = 262_144, 200_000, 0.93, 3

Row = dict[str, Any]


class Table:
    """A table in codes, all of its rows, and the rows a fit sees."""

    def __init__(self, source: str) -> None:
        table = load(source)
        self.plans = plan_columns(table.schema, profile_of(table), thinned(Sample(table, (table.num_rows,)), SAMPLE_ROWS)[0], {})
        self.picked = [p.index for p in self.plans if p.is_measured and p.hi > p.lo]
        self.columns: list[BaseColumn] = base_columns(self.plans, self.picked, {})
        self.values, self.present = matrix(self.plans, self.picked, table)
        some, self.runs = preview_rows(Sample(table, (table.num_rows,)), len(self.picked))
        self.some = matrix(self.plans, self.picked, some)

    def fitted(self, codec: str, n_bytes: float, seed: int) -> BaseLayer | None:
        """The layer of one kind for so many bytes, whether a fit would find it worth them or not."""
        n = len(self.values)
        task = prepare(tuple(self.columns), *self.some, 8 * n_bytes / n, n, self.runs)
        if codec == "klt":
            usable = [w for w in PREVIEW_WINDOWS if w == 1 or w * task.features.n_features <= MAX_INPUTS]
            found = [pair[0] for w in usable for pair in (klt_candidate(task, w, math.inf),) if pair is not None]
        else:
            found, _ = code_candidates(task, PREVIEW_WINDOWS, seed, math.inf, None)
        within = [m for m in found if m.n_bytes <= n_bytes]
        return min(within, key=lambda m: m.score).layer if within else None

    def measured(self, layer: BaseLayer) -> Row:
        """What the layer takes and how far it is off, of all rows."""
        n, d = self.values.shape
        squares, right, latents = np.zeros(d), np.zeros(d), 0
        for start, n_rows in even_spans(n, BLOCK_ROWS):
            rows = slice(start, start + n_rows)
            z = layer.encode(self.values[rows], self.present[rows])
            latents += stored_bytes(z)
            guess = layer.decode(z)
            squares += np.where(self.present[rows], (guess - self.values[rows]).astype(np.float64) ** 2, 0).sum(axis=0)
            right += (self.present[rows] & (guess == self.values[rows])).sum(axis=0)
        numeric = np.array([c.kind == "numeric" for c in self.columns])
        seen = np.maximum(self.present.sum(axis=0), 1)
        spread = np.array([np.std(self.values[self.present[:, j], j]) for j in range(d)])
        ratios = (np.sqrt(squares / seen) / np.where(spread > 0, spread, 1))[numeric]
        accuracy = float((right / seen)[~numeric].mean()) if not numeric.all() else None
        model = layer.n_bytes
        return {
            "bytes": latents + model, "latent_bytes": latents, "model_bytes": model, "window": layer.window,
            "error": float(np.mean([*ratios, *([] if accuracy is None else [1 - accuracy])])), "accuracy": accuracy,
        }  # fmt: skip

    def best(self, codec: str, n_bytes: float) -> Row | None:
        """The least error within the bytes, of the seed in the middle."""
        found = sorted(filter(None, (self._best(codec, n_bytes, seed) for seed in SEEDS[codec])), key=lambda row: float(row["error"]))
        ends = {"error_least": found[0]["error"], "error_most": found[-1]["error"]} if found else {}
        return found[len(found) // 2] | ends if found else None

    def _best(self, codec: str, n_bytes: float, seed: int) -> Row | None:
        """The least error within the bytes: what falls short of them is fitted to more."""
        found, wanted, began = list[Row](), n_bytes, time.process_time()
        for _ in range(MOST_FITS):
            layer = self.fitted(codec, wanted, seed)
            if layer is None:
                break
            found.append(self.measured(layer))
            used = found[-1]["bytes"] / n_bytes
            if CLOSE < used <= 1:
                break
            wanted *= min(0.98 / used, 1.5)
        within = [row for row in found if row["bytes"] <= n_bytes]
        return min(within, key=lambda row: float(row["error"])) | {"train_s": time.process_time() - began} if within else None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the CSV and the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", required=True, help="every Parquet file in it is a table")
    parser.add_argument("--datasets", metavar="NAME", nargs="*", default=[], help="only these")
    parser.add_argument("--archive", metavar="NAME=BYTES", nargs="*", default=[], help="archives not in `bench.csv`")
    parser.add_argument("--out", metavar="CSV", help="write here, and leave the README alone")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out) if arguments.out else RESULTS
    stamp, rows = machine(ROOT), list[Row]()
    known = {name: int(n_bytes) for name, _, n_bytes in (given.partition("=") for given in arguments.archive)}
    for name, source in datasets(Path(arguments.data), arguments.datasets).items():
        if not source.endswith(".parquet") or _n_rows(source) < LEAST_ROWS:
            continue
        table, archive = Table(source), known.get(name) or archive_bytes(name, source)
        about = {"dataset": name, "rows": len(table.values), "columns": len(table.columns), "archive_bytes": archive}
        best: dict[str, Row] = {}
        for share in SHARES:
            n_bytes = share * archive
            for codec in CODECS:
                now = [best.get(codec), table.best(codec, n_bytes)]  # what a smaller share had is within this one
                best[codec] = min(filter(None, now), key=lambda row: float(row["error"]), default={})
                n_bytes = best[codec].get("bytes", n_bytes)
            told = dict(best)
            if told["vae"] and told["klt"] and told["vae"]["bytes"] < CLOSE * told["klt"]["bytes"]:
                told["klt"] = table.best("klt", told["vae"]["bytes"]) or {}
            for codec, found in told.items():
                rows.append({**about, "share": share, "codec": codec, **found, **stamp})
                print(f"{name:<20} {share:.1%} {codec}  {found.get('bytes', 0):>9,} B  error {found.get('error', 1):.3f}", flush=True)
            write(rows, out)
    if out == RESULTS:
        readme.main([])
    return 0


def archive_bytes(name: str, source: str) -> int:
    """Bytes of the lossless archive: as `bench.csv` has them, or of a run."""
    known = [row for row in read_csv(KNOWN) if (row["dataset"], row["bound"], row["codec"]) == (name, "lossless", OURS)]
    return int(known[0]["bytes"]) if known else int(measure_ours(source, [], reads=False)["bytes"])


def write(rows: Sequence[Row], path: Path) -> None:
    """Whole or not at all."""
    beside = path.with_name(path.name + ".part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n", restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    beside.replace(path)


def _n_rows(source: str) -> int:
    import pyarrow.parquet as pq

    return int(pq.ParquetFile(source).metadata.num_rows)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
