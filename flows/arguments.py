"""The arguments of the command line, its help and its usage errors. Nothing heavier than argparse is imported."""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vae_core.errors import UsageError

MAIN_HELP = """\
Learn a dataset, store it as sparse latents plus corrections, prove it by decoding, report what it saves.

start here:
  latentpack run flights/ archive/                      store a folder of Parquet files, lossless
  latentpack read archive/ flights.parquet              get it back
  latentpack info archive/                              what the archive holds and what it costs

exit codes: 0 done; 2 usage; 3 bad input; 4 corrupt archive; 5 verification failed; 6 conflict; 130 interrupted
"""

RUN_HELP = """\
Store SOURCE in ARCHIVE: ingest, train, encode, verify by full decode, commit, report. A second run on the same source
has nothing to do; new files in the source are added as a new snapshot, changed ones are replaced in it. Old snapshots
stay readable. Runs show in the UI of the Prefect server that PREFECT_API_URL names, or of one that is started for them.

tolerances (repeat the option; a named column beats '*'; the default is lossless):
  --tolerance 'temp=0.05'        every value of temp within 0.05
  --tolerance 'temp=1%'          within 1 % of the column's range (max - min of finite values)
  --tolerance '*=0.1%'           every float column, tensors and lists of one length included; integers only when named
  --tolerance 'geo.lat=1e-5'     a member of a struct, by its path
  --tolerance 'temp=rmse:0.02'   root mean square error over the column; latents alone, no corrections
  --tolerance '*=rmse:3%'        the same, as a share of each column's range
  --tolerance 'image=psnr:30'    at least 30 dB
Shares are of the range the first run found. It may grow; where files are replaced or dropped and it shrank, all is encoded again.

examples:
  latentpack run flights/ archive/
  latentpack run 'sensors/2024-*.parquet' s3://bucket/sensors --tolerance '*=0.1%' --json savings.json
  latentpack run images.npy archive/ --tolerance 'value=psnr:30' --time-budget 300
  latentpack run flights/ archive/ --favour reading                        for readers that have no compiler
  latentpack run flights/ archive/ --retrain --tolerance 'dep_delay=5'     other tolerances need a new generation
"""

READ_HELP = """\
Decode an archive, or a part of it, into one file. The name of OUT decides the format: .parquet .csv .arrow .npy
(.npy needs one numeric or tensor column). OUT appears whole or not at all.

examples:
  latentpack read archive/ flights.parquet
  latentpack read archive/ part.csv --columns origin,dest,dep_delay --rows 1000:2000
  latentpack read archive/ places.csv --columns id,geo.lat,geo.lon      members of a struct, as columns
  latentpack read archive/ sketch.parquet --preview     latents alone: fewer bytes moved, approximate values
  latentpack read archive/ before.arrow --snapshot 1    the data as it was at snapshot 1
"""

VERIFY_HELP = """\
Check every digest, that each row of each source file is held once, and decode the archive; with --source, compare every value
with the raw data and its tolerance. A source with files that the newest snapshot does not hold, or without one it does, is refused.

examples:
  latentpack verify archive/
  latentpack verify archive/ --source flights/ --json proof.json
  latentpack verify archive/ --sample 0.05              decode a random twentieth of the blocks
"""

INFO_HELP = """\
Rows, schema, snapshots, models and bytes by part. Reads snapshots and the records of shards, no data.

examples:
  latentpack info archive/
  latentpack info archive/ --json | python -m json.tool
"""

SAMPLE_HELP = """\
Draw rows that look like the archive's, with its schema: learned columns cell by cell from distributions learned of decoded
rows, all others together from one of those rows, a distortion layer's from the prior of its latents. The same seed gives the
same rows. Rows are imagined, not anonymous: single values, and whole rows of columns that are not learned, are the data's.

example:
  latentpack sample archive/ imagined.parquet --rows 1000 --seed 7
"""

VACUUM_HELP = """\
Remove the objects no snapshot names: left-overs of interrupted runs. With --keep older snapshots go first, with the shards and
models they alone named; the newest always stays. Raw data and reports are never touched. What a run younger than 24 hours staged
is kept, for a run that may still be at work or be started again; how much that is, is said.

examples:
  latentpack vacuum archive/ --dry-run
  latentpack vacuum archive/ --keep 30
"""

SERVE_HELP = """\
Start the Prefect server with its UI (or use the one PREFECT_API_URL names) and serve the pipeline beside it: nightly
schedule, on-demand form, event trigger. Prints the URL; stop with Ctrl-C, which cancels the runs in flight.
"""


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors, as every other error of the command."""

    def error(self, message: str) -> NoReturn:
        print(f"latentpack: error: {one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(UsageError.exit_code)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, parsed; a usage error ends the process, as argparse has it."""
    words = list(sys.argv[1:] if argv is None else argv)
    for k in range(len(words) - 1, 0, -1):  # argparse takes a word with a dash for an option, if it is not a number
        if words[k - 1] == "--rows" and re.fullmatch("-[0-9]+:-?[0-9]*", words[k]):
            words[k - 1 : k + 1] = [f"--rows={words[k]}"]
    whole = parser()
    found, unknown = whole.parse_known_args(words)
    if unknown:
        expanded = found.command == "run" and not any(word.startswith("-") for word in unknown)
        hint = "; SOURCE is one file, folder or glob, and a glob needs quotes: 'data/*.csv'" if expanded else ""
        rest = f" and {len(unknown) - 3:,} more" if len(unknown) > 3 else ""
        whole.error(f"unrecognized arguments: {' '.join(unknown[:3])}{rest}{hint}")
    return found


def parser() -> argparse.ArgumentParser:
    """The whole command line as one argparse parser."""
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks and debug logs")
    common.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress, no summary; errors only")

    main_parser = _Parser(prog="latentpack", description=MAIN_HELP, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common])
    main_parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = main_parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common]
        )

    run = command("run", "store a dataset in an archive", RUN_HELP)
    run.add_argument(
        "source",
        metavar="SOURCE",
        help="file, folder or glob, path or fsspec URI: Parquet, CSV, JSON lines, Arrow, NPY",
    )
    run.add_argument("archive", metavar="ARCHIVE", help="path or fsspec URI, e.g. s3://bucket/prefix")
    run.add_argument("--tolerance", metavar="COL=SPEC", action="append", default=[], help="see above; repeatable")
    run.add_argument(
        "--preview",
        metavar="auto|off|N%",
        default="auto",
        help="latents kept for previews, at most N%% of the archive (auto: 0.8%%)",
    )
    run.add_argument(
        "--time-budget", metavar="SECONDS", type=_positive_seconds, default=None,
        help="limit of the training time (default 90, up to 240 above 12 million cells)",
    )  # fmt: skip
    run.add_argument(
        "--favour", choices=("size", "balance", "reading"), default="balance",
        help="what a model is made for: size; reading, several times as fast where there is no C kernel, mostly 2 to 11 %% more; or "
        "balance (default): size up to 200,000 rows, of more what is read sooner where it takes little more (images and vectors as ever); "
        "an archive that has a model keeps it until it is refreshed, or --retrain, and a refresh keeps to what it favours unless size "
        "or reading is asked for",
    )  # fmt: skip
    run.add_argument(
        "--compare", choices=("full", "sampled"), default="full",
        help="what conventional codings would take, which the report tells: full (default) is measured on every row and may take as long "
        "as encoding; sampled, where columns are clearly smaller here, by a part of the rows, mostly 5 to 15 %% too few bytes",
    )  # fmt: skip
    run.add_argument(
        "--block-rows", metavar="ROWS", type=_positive_count, default=None,
        help="rows that a read of a few decodes at least (default 131,072 to 524,288): fewer are read sooner and take more bytes in all, "
        "blocks of 65,536 rows up to 6 %% more, of 32,768 up to 13 %%; what an archive holds already stays as it is",
    )  # fmt: skip
    run.add_argument("--seed", metavar="S", type=_natural, default=0, help="seed of sampling and training (default 0)")
    run.add_argument("--widen", action="store_true", help="let files disagree by int to float, int32 to int64, null to anything")
    run.add_argument(
        "--retrain",
        action="store_true",
        help="train from scratch and encode everything again, a new generation; needed to change tolerances or the schema",
    )
    run.add_argument("--drop-missing", action="store_true", help="leave rows of files that vanished from SOURCE out of the new snapshot")
    run.add_argument("--keep", metavar="N", type=_positive_count, help="afterwards remove all but the newest N snapshots")
    run.add_argument("--json", metavar="PATH", help="write the report as JSON ('-': standard output)")

    read = command("read", "decode an archive into a file", READ_HELP)
    read.add_argument("archive", metavar="ARCHIVE")
    read.add_argument("out", metavar="OUT", help="a .parquet, .csv, .arrow or .npy file")
    read.add_argument(
        "--columns",
        metavar="A,B",
        type=_names,
        help="only these columns, in this order (quote a name that holds a comma)",
    )
    read.add_argument(
        "--rows",
        metavar="START:STOP",
        type=_row_range,
        help="only these rows, like a Python slice; either end may be open, or count from the end (-100:)",
    )
    read.add_argument("--preview", action="store_true", help="from the latents alone: approximate, fewer bytes")
    read.add_argument("--snapshot", metavar="N", type=_natural, help="an older snapshot (default: the newest)")

    verify = command("verify", "check and decode an archive", VERIFY_HELP)
    verify.add_argument("archive", metavar="ARCHIVE")
    verify.add_argument("--source", metavar="SOURCE", help="compare with the raw data, value by value")
    verify.add_argument("--sample", metavar="FRACTION", type=_fraction, default=1.0, help="decode this share of the blocks (default 1)")
    verify.add_argument("--json", metavar="PATH", help="write the findings as JSON ('-': standard output)")

    info = command("info", "what an archive holds", INFO_HELP)
    info.add_argument("archive", metavar="ARCHIVE")
    info.add_argument("--json", action="store_true", help="print JSON")

    sample = command("sample", "draw new rows from the model", SAMPLE_HELP)
    sample.add_argument("archive", metavar="ARCHIVE")
    sample.add_argument("out", metavar="OUT", help="a .parquet, .csv, .arrow or .npy file")
    sample.add_argument("--rows", metavar="N", type=_natural, required=True, help="how many rows")
    sample.add_argument("--seed", metavar="S", type=_natural, default=0, help="default 0")

    vacuum = command("vacuum", "remove what no snapshot names", VACUUM_HELP)
    vacuum.add_argument("archive", metavar="ARCHIVE")
    vacuum.add_argument("--keep", metavar="N", type=_positive_count, help="of the snapshots keep only the newest N")
    vacuum.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")

    serve = command("serve", "the pipeline with schedule, form and trigger, beside the UI", SERVE_HELP)
    serve.add_argument("--port", metavar="N", type=_port, help="TCP port of the server on 127.0.0.1 (default 4200, any when that is taken)")
    return main_parser


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"latentpack {version('latentpack')}")
        except PackageNotFoundError:
            print("latentpack (not installed)")
        parser.exit()


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, zero or more")
    return int(text)


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a TCP port, 1 to 65535")
    return number


def _positive_count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
    return number


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above zero")
    return seconds


def _fraction(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction above 0 and at most 1")
    return share


def _row_range(text: str) -> tuple[int | None, int | None]:
    start, colon, stop = text.partition(":")
    if not colon or any(end and re.fullmatch("-?[0-9]+", end) is None for end in (start, stop)):
        raise argparse.ArgumentTypeError(f"{text!r} is not START:STOP with whole numbers, e.g. 0:1000, 5000: or -100: for the last")
    return int(start) if start else None, int(stop) if stop else None


def _names(text: str) -> list[str]:
    names = next(csv.reader([text]), [])
    if not names or "" in names:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of column names, e.g. origin,dest")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise argparse.ArgumentTypeError(f"column {repeated[0]!r} is asked for twice")
    return names


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())
