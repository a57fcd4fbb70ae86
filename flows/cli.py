"""The command line. Imports lazily: `--help` and the reading commands load neither torch nor Prefect."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flows.arguments import one_line, parse
from flows.terminal import saying_what_is_slow
from vae_core.errors import BadInput, LatentpackError, UsageError

EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
# Read by libraries when they are first imported. Prefect: no telemetry, and no notice of it between our lines. numpy: its
# products are small, and two threads of BLAS wait for each other at every one where another process has a core.
ENVIRONMENT = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Never raises but for argparse's SystemExit."""
    arguments = parse(argv)
    debug, quiet = getattr(arguments, "debug", False), getattr(arguments, "quiet", False)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        _configure_logging(debug, quiet)
        with nullcontext() if debug or quiet else saying_what_is_slow():  # with --debug it is among all that is logged
            return COMMANDS[arguments.command](arguments, quiet)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print("latentpack: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = explain(error)
        print(f"latentpack: error: {message}", file=sys.stderr)
        return code


def explain(error: BaseException) -> tuple[str, int]:
    """One line and an exit code for any exception; an error of ours wrapped by a framework still speaks for itself."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, LatentpackError):
            return one_line(str(link)), link.exit_code
        link = link.__cause__ or link.__context__
    if isinstance(error, ModuleNotFoundError):
        needs = "pip install 'latentpack[flows]' (reading, verifying and sampling need no extras)"
        return one_line(f"{error.name} is not installed: {needs}"), UsageError.exit_code
    if isinstance(error, MemoryError):
        return "out of memory", EXIT_UNEXPECTED
    if isinstance(error, OSError):
        said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error) or type(error).__name__
        return one_line(said), BadInput.exit_code  # storage, of the source, the archive or a result
    return one_line(f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)"), EXIT_UNEXPECTED


OPTIONS = {"block_rows": "--block-rows", "time_budget_s": "--time-budget", "keep_snapshots": "--keep", "seed": "--seed"}


def _run(arguments: argparse.Namespace, quiet: bool) -> int:
    _check_json_path(arguments.json)
    from flows.settings import RunRequest

    optional = {"time_budget_s": arguments.time_budget, "block_rows": arguments.block_rows}
    request = _parsed(
        RunRequest,
        source=arguments.source,
        archive=arguments.archive,
        tolerances=arguments.tolerance,
        preview=arguments.preview,
        favour=arguments.favour,
        compare=arguments.compare,
        seed=arguments.seed,
        widen=arguments.widen,
        retrain=arguments.retrain,
        drop_missing=arguments.drop_missing,
        keep_snapshots=arguments.keep,
        **{name: value for name, value in optional.items() if value is not None},
    )
    from flows.launch import run_pipeline
    from flows.table import run_table
    from flows.terminal import ProgressLine

    with ProgressLine(quiet=quiet) as progress:
        report = run_pipeline(request, progress=progress)
    _write_json(arguments.json, report.to_json())
    if not quiet:
        print(run_table(report), file=sys.stderr if arguments.json == "-" else sys.stdout)
    return 0


def _read(arguments: argparse.Namespace, quiet: bool) -> int:
    from flows.reading import export
    from flows.words import counted, human_bytes

    result = export(
        arguments.archive,
        arguments.out,
        columns=arguments.columns,
        rows=arguments.rows,
        preview=arguments.preview,
        snapshot=arguments.snapshot,
    )
    if not quiet:
        print(
            f"{arguments.out}: {counted(result.n_rows, 'row')}, {counted(result.n_columns, 'column')}, {human_bytes(result.n_bytes)};"
            f" {human_bytes(result.n_bytes_moved)} read from the archive"
        )
    return 0


def _verify(arguments: argparse.Namespace, quiet: bool) -> int:
    _check_json_path(arguments.json)
    from flows.table import verify_table
    from flows.verify import verify_archive
    from vae_core.errors import VerificationFailed

    # files that a run joined with --widen are joined here, too: all are of the types that the archive has
    value = verify_archive(arguments.archive, source=arguments.source, sample=arguments.sample, widen=True)
    _write_json(arguments.json, value)
    if not quiet:
        print(verify_table(value), file=sys.stderr if arguments.json == "-" else sys.stdout)
    if value.get("violations") or value.get("mismatches"):
        raise VerificationFailed(
            f"{arguments.archive}: {value.get('violations', 0)} values outside their tolerance,"
            f" {value.get('mismatches', 0)} exact values differ"
        )
    return 0


def _info(arguments: argparse.Namespace, quiet: bool) -> int:
    from flows.inventory import inventory
    from flows.table import info_table

    value = inventory(arguments.archive)
    print(json.dumps(value, indent=2, ensure_ascii=False) if arguments.json else info_table(value))
    return 0


def _sample(arguments: argparse.Namespace, quiet: bool) -> int:
    from flows.reading import export_sample
    from flows.words import counted, human_bytes

    result = export_sample(arguments.archive, arguments.out, n_rows=arguments.rows, seed=arguments.seed)
    if not quiet:
        drawn = f"{counted(result.n_rows, 'row')} drawn from the model with seed {arguments.seed}"
        print(f"{arguments.out}: {drawn}, {human_bytes(result.n_bytes)}")
    return 0


def _vacuum(arguments: argparse.Namespace, quiet: bool) -> int:
    from flows.table import vacuum_table
    from storage.writer import vacuum

    result = vacuum(_open_store(arguments.archive), keep=arguments.keep, dry_run=arguments.dry_run)
    if not quiet:
        print(vacuum_table(result, dry_run=arguments.dry_run))
    return 0


def _serve(arguments: argparse.Namespace, quiet: bool) -> int:
    from flows.serve import serve

    serve(port=arguments.port)
    return 0


COMMANDS = {
    "run": _run,
    "read": _read,
    "verify": _verify,
    "info": _info,
    "sample": _sample,
    "vacuum": _vacuum,
    "serve": _serve,
}


def _open_store(uri: str) -> Any:
    from storage.objects import ObjectStore

    return ObjectStore.open(uri)


def _parsed(model: Any, **values: Any) -> Any:
    """A pydantic model from command-line values; its complaints as a UsageError."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        raise UsageError("; ".join(_complaint(item["loc"], item["msg"], item["input"]) for item in error.errors())) from error


def _complaint(place: tuple[int | str, ...], message: str, given: object) -> str:
    """What is wrong with a value, named by its option where it has one."""
    option = OPTIONS.get(str(place[-1])) if place else None
    message = message.removeprefix("Value error, ")
    if option is None:
        return f"{'.'.join(str(part) for part in place) or 'request'}: {message}"
    return f"{option} {given}: {message[0].lower()}{message[1:]}"


def _check_json_path(path: str | None) -> None:
    """Refuse before hours of work, not after."""
    if path is None or path == "-":
        return
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"--json {path}: is a folder; give the name of a file")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"--json {path}: the folder {target.absolute().parent} does not exist")
    try:
        tempfile.TemporaryFile(dir=target.absolute().parent).close()
    except OSError as error:
        raise UsageError(f"--json {path}: cannot write into the folder {target.absolute().parent} ({error.strerror})") from error


def _write_json(path: str | None, value: Mapping[str, Any]) -> None:
    if path is None:
        return
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    from flows.reading import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _configure_logging(debug: bool, quiet: bool) -> None:
    if quiet and logging.lastResort is not None:
        logging.lastResort.setLevel(logging.ERROR)  # of records that no handler takes, which are on the terminal then
    if debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
        for noisy in _NOISY_LOGGERS:
            logging.getLogger(noisy).setLevel(logging.INFO)


_NOISY_LOGGERS: Iterable[str] = (
    "matplotlib",
    "asyncio",
    "botocore",
    "aiobotocore",
    "s3fs",
    "httpx",
    "httpcore",
    "urllib3",
    "fsspec",
    "websockets",
)


if __name__ == "__main__":
    sys.exit(main())
