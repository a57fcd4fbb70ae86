"""`make bench`: every dataset, bound, peer and latentpack in the same run; writes the CSV, the README's tables and the plot.

    python benchmarks/bench.py                          lossless and 1 %, peers that need no training
    python benchmarks/bench.py --data FOLDER            every Parquet and NPY file of a folder and the folders in it
    python benchmarks/bench.py --full --data FOLDER     lossless, 0.1 % and 1 %, every peer
    python benchmarks/bench.py --quick                  one bound, a short training, nothing written

Bytes count everything a reader needs. Speeds are MB/s of Arrow bytes by one thread. Each measurement is its own process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks import readme  # noqa: E402
from benchmarks.children import ask  # noqa: E402
from benchmarks.codecs.dataset import NUMERIC, csv_bytes, load, says_something, specs  # noqa: E402
from benchmarks.ours import measure_ours  # noqa: E402
from benchmarks.peers import ALL, BUDGET_S, LOSSLESS, Peer  # noqa: E402
from benchmarks.results import FOR_READING, OURS, WITHOUT_LATENTS, complete, machine, read_csv, write_csv  # noqa: E402
from storage.sources import open_source  # noqa: E402
from vae_core.errors import LatentpackError  # noqa: E402

BUNDLED = HERE / "data" / "flights"
BESIDE = ROOT.parent / "shared" / "data"
RESULTS = HERE / "results" / "bench.csv"
BOUNDS, FULL_BOUNDS = (LOSSLESS, "1%"), (LOSSLESS, "0.1%", "1%")
DEEPSQUEEZE_BOUNDS = tuple(f"{NUMERIC}{share}%" for share in ("0.5", "1", "5", "10"))
DEEPSQUEEZE_PEERS = ("best-conventional", "vae")
ENDINGS = (".parquet", ".npy")

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0, or 1 when a promise was broken or a measurement failed."""
    arguments = _parser().parse_args(argv)
    beside = BESIDE if BESIDE.is_dir() and not arguments.quick else None
    sources = datasets(Path(arguments.data) if arguments.data else beside, arguments.datasets)
    if not sources:
        print(f"bench: no Parquet or NPY file in {arguments.data or BUNDLED}", file=sys.stderr)
        return 1
    out = Path(arguments.out) if arguments.out else None if arguments.quick else RESULTS
    stamp = machine(ROOT)
    kept = [row for row in read_csv(out) if row["commit"] == stamp["commit"]] if arguments.resume and out and out.exists() else []
    rows: list[Row] = [*kept]
    measured = {(row["dataset"], row["bound"], row["codec"]) for row in rows}
    failures = 0
    for name, source in sources.items():
        about = _about(source, arguments)
        if about is None:
            failures += 1
            print(f"{name:<28} cannot be read")
            continue
        for bound, codecs in _cases(arguments, about.pop("schema")):
            for codec in codecs:
                label = codec.name if isinstance(codec, Peer) else codec
                if (name, bound, label) in measured:
                    continue
                print(f"{name:<28} {bound:<13} {label:<26}", end="", flush=True)
                row = _measured(codec, source, bound, arguments) | about
                rows.append({"dataset": name, "bound": bound, "codec": label, **row, **stamp})
                failures += bool(row.get("violations")) or bool(row.get("failed"))
                print(_line(row), flush=True)
                complete(rows)
                if out is not None:
                    write_csv(rows, out)  # after every row: a long run that is stopped can be resumed
    if out is not None:
        print(f"wrote {out}")
    if out == RESULTS:
        readme.main([])
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    beside = "a folder, each Parquet and NPY file in it a dataset (default: ../shared/data where that is, else the bundled flights)"
    add("--data", metavar="FOLDER", help=beside)
    add("--datasets", metavar="NAME", nargs="*", default=[], help="only these, by path within the folder without the ending")
    usual, full = (",".join(bounds).replace("%", "%%") for bounds in (BOUNDS, FULL_BOUNDS))
    add("--bounds", default=None, help=f"comma-separated (default {usual}; with --full {full})")
    add("--peers", metavar="NAME", nargs="*", default=None, help=f"only these of {', '.join(p.name for p in ALL)}")
    add("--time-budget", type=float, default=None, metavar="SECONDS", help="training time of latentpack (default: its own)")
    add("--peer-budget", type=float, default=BUDGET_S, metavar="SECONDS", help=f"of each peer that trains (default {BUDGET_S:g})")
    add("--full", action="store_true", help="all three bounds, and the peers that train")
    add(
        "--deepsqueeze", action="store_true",
        help="also 0.5, 1, 5 and 10 %% of the range on every column of numbers, integers too, in per cent of the CSV",
    )  # fmt: skip
    add("--quick", action="store_true", help="lossless only, 10 s of training, writes nothing: a smoke test")
    add("--resume", action="store_true", help="keep what the CSV holds of this commit, measure the rest")
    add("--out", metavar="CSV", help=f"write here instead of {RESULTS.relative_to(ROOT)}, and leave README and plot alone")
    return parser


def datasets(folder: Path | None, wanted: Sequence[str]) -> dict[str, str]:
    """Name -> source. The bundled flights are one dataset of twelve files."""
    if folder is None:
        found = {"flights": str(BUNDLED)}
    else:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS and path.is_file())
        found = {path.relative_to(folder).with_suffix("").as_posix(): str(path.resolve()) for path in paths}
    return {name: source for name, source in found.items() if not wanted or name in wanted}


def _cases(arguments: argparse.Namespace, schema: Any) -> list[tuple[str, list[Peer | str]]]:
    """(bound, what is measured at it); bounds that name no column of the schema are lossless again and left out."""
    wanted = ALL if arguments.peers is None else [p for p in ALL if p.name in arguments.peers]
    peers: list[Peer | str] = [p for p in wanted if arguments.full or arguments.peers is not None or not p.trained]
    named = arguments.bounds.split(",") if arguments.bounds else FULL_BOUNDS if arguments.full else BOUNDS
    cases = [(bound, [*peers, WITHOUT_LATENTS, OURS]) for bound in ([LOSSLESS] if arguments.quick else named)]
    for bound, codecs in cases:
        codecs += [FOR_READING] if bound == LOSSLESS and not arguments.quick else []
    if arguments.deepsqueeze:
        few: list[Peer | str] = [p for p in ALL if p.name in DEEPSQUEEZE_PEERS]
        cases += [(bound, [*few, OURS]) for bound in DEEPSQUEEZE_BOUNDS]
    return [case for case in cases if says_something(schema, case[0])]


def _about(source: str, arguments: argparse.Namespace) -> Row | None:
    """What is known of a dataset before anything is measured; None when it cannot be read."""
    try:
        with open_source(source, recipe=None) as opened:
            schema = opened.schema
    except LatentpackError as error:
        print(error, file=sys.stderr)
        return None
    about: Row = {"schema": schema, "raw_bytes": _stored_bytes(source)}
    if arguments.deepsqueeze:
        about["csv_bytes"] = csv_bytes(load(source))
    return about


def _measured(codec: Peer | str, source: str, bound: str, arguments: argparse.Namespace) -> Row:
    """One measurement, or the reason why there is none."""
    try:
        if isinstance(codec, Peer):
            reason = codec.missing(bound)
            if reason:
                return {"reason": reason}
            command = [sys.executable, str(HERE / "peers.py"), codec.name, source, bound, str(arguments.peer_budget)]
            row: Row = json.loads(ask(command))
            return row | ({"budget_s": arguments.peer_budget} if codec.trained else {})
        with open_source(source, recipe=None) as opened:
            asked = specs(opened.schema, bound)
        quick = 10.0 if arguments.quick and arguments.time_budget is None else arguments.time_budget
        preview = "off" if codec == WITHOUT_LATENTS else "auto"
        favour, reads = "reading" if codec == FOR_READING else "balance", codec != WITHOUT_LATENTS
        return measure_ours(source, asked, preview=preview, favour=favour, budget_s=quick, reads=reads)
    except subprocess.CalledProcessError as error:
        last = ((error.stderr or "").strip().splitlines() or [f"exit {error.returncode}"])[-1]
        # the CSV is committed: it names no path of the machine it was measured on
        return {"reason": "failed: " + last.replace(source, "SOURCE").replace(str(ROOT), "."), "failed": True}


def _line(row: Row) -> str:
    if "bytes" not in row:
        return f"{'–':>13}    {row['reason']}"
    speed = f"encode {row['encode_mb_s']:7.1f}  decode {row['decode_mb_s']:7.1f} MB/s"
    return f"{row['bytes']:>13,} B  {speed}" + (f"  {row['violations']} VIOLATIONS" if row["violations"] else "")


def _stored_bytes(source: str) -> int:
    path = Path(source)
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


if __name__ == "__main__":
    sys.exit(main())
