"""Archives written by every format version are read for ever, to the bit. tests/golden/make.py wrote them; this only reads."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vae_core
from storage import open_archive
from storage.archive import Archive
from storage.version import FORMAT_VERSION
from vae_core.coders.conventional import CODINGS
from vae_core.coders.fields.places import FIXED, KEPT_ONE, STRIPPED
from vae_core.columns.calendar import CLOCK, ORDERS
from vae_core.columns.numerals import NumberText, Signs
from vae_core.columns.texts import DigitText
from vae_core.columns.times import TimeText
from vae_core.entropy import gathered
from vae_core.exact.features import COLUMN_KINDS, OWN_KINDS
from vae_core.exact.forms import FORMS
from vae_core.exact.linear import TERM_KINDS
from vae_core.exact.schedule import LAST_CHUNKS, LONG_STRETCHES, PARTS, SHORT_STRETCHES, STRETCH
from vae_core.quality import compare, digest

GOLDEN = Path(__file__).parent / "golden"
FORMAT = Path(__file__).parent.parent / "storage" / "FORMAT.md"
EVERY = {"types", "lossless", "tolerance", "distortion", "network", "codings", "contexts"}
LATER = EVERY | {"lattices"}
CASES = {
    "1.0": EVERY, "1.1": LATER, "1.2": LATER, "1.3": LATER, "1.4": LATER, "1.5": LATER | {"history"},
    "1.6": LATER | {"history", "tensors"}, "1.7": {"history", "types", "tolerance"},
    "1.8": {"counted", "codings", "history"}, "1.9": {"leaves", "mixed", "fields"}, "1.10": {"above", "lists"},
    "1.11": {"contexts", "fractions"}, "1.12": {"contexts", "above"}, "1.13": {"gathered"}, "1.14": {"gathered"},
    "1.15": {"lanes"}, "1.16": {"gathered"}, "1.17": {"groups", "products", "times", "longer"}, "1.18": {"numbers"},
    "1.19": {"strips"},
    "1.20": {"elements"}, "1.21": {"wide"}, "1.22": {"prose", "units"},
}  # fmt: skip
WITH_PREVIEW = {"tolerance", "distortion"}
OLDER = {"1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.7"}  # those with nothing that no later one has
MOST_BYTES = 60_000

FOUND = sorted((path.parent.name, path.name) for path in GOLDEN.glob("*/*") if path.is_dir())


def archive_of(version: str, case: str) -> Archive:
    return open_archive(str(GOLDEN / version / case / "archive"))


def expected(version: str, case: str, name: str = "expected") -> pa.Table:
    with pa.ipc.open_file(GOLDEN / version / case / f"{name}.arrow") as reader:
        return reader.read_all()


def assert_same(found: pa.Table, wanted: pa.Table) -> None:
    assert found.schema.equals(wanted.schema, check_metadata=True) and found.num_rows == wanted.num_rows
    for quality in compare(wanted, found, {}):
        assert quality.mismatches == 0, quality


def test_every_format_version_has_its_golden_archives():
    versions = re.findall(r"^\| (\d+\.\d+) \|", FORMAT.read_text(encoding="utf-8"), re.MULTILINE)
    assert versions and ".".join(str(part) for part in FORMAT_VERSION) in versions
    assert set(CASES) == set(versions), "a new format version needs golden archives: run tests/golden/make.py, then name its cases here"
    for version, cases in CASES.items():
        assert {case for of, case in FOUND if of == version} == cases, version
    assert {version for version, _ in FOUND} == set(versions)


def test_the_dictionary_of_phrases_is_the_one_the_format_names():
    phrases = (Path(vae_core.__file__).parent / "phrases.zdict").read_bytes()
    assert f"SHA-256 `{hashlib.sha256(phrases).hexdigest()}`" in FORMAT.read_text(encoding="utf-8") and len(phrases) == 16_384


@pytest.mark.parametrize(("version", "case"), FOUND)
def test_a_golden_archive_is_whole_and_small(version, case):
    folder = GOLDEN / version / case / "archive"
    every = [open_archive(str(folder), snapshot=number) for number in archive_of(version, case).snapshots()]
    checked = {path for archive in every for path in archive.check_objects()}
    sizes = {f.relative_to(folder).as_posix(): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
    assert checked and checked == {path for path in sizes if path.startswith(("models/", "shards/", "chapters/", "schemas/"))}
    assert sum(sizes.values()) < MOST_BYTES


@pytest.mark.parametrize(("version", "case"), FOUND)
def test_a_golden_archive_decodes_to_the_bit(version, case):
    wanted = expected(version, case)
    assert wanted.num_rows >= (300 if case not in ("tensors", "mixed") else 100)
    assert_same(archive_of(version, case).to_table(), wanted)


@pytest.mark.parametrize(("version", "case"), FOUND)
def test_rows_and_columns_of_a_golden_archive_are_those_of_the_whole(version, case):
    wanted = expected(version, case)
    archive = archive_of(version, case)
    names = wanted.schema.names[::-2]
    assert_same(archive.to_table(names, (111, 250)), wanted.select(names).slice(111, 139))
    assert_same(archive.to_table(names[:1]), wanted.select(names[:1]))


@pytest.mark.parametrize(("version", "case"), [found for found in FOUND if found[1] in WITH_PREVIEW])
def test_a_golden_preview_decodes_to_the_bit(version, case):
    assert_same(archive_of(version, case).to_table(preview=True), expected(version, case, "preview"))


def test_golden_symbols_are_gathered_in_every_form(monkeypatch):
    forms, units, read, unpco = set(), set(), gathered._from_brotli, gathered.unpco
    monkeypatch.setattr(gathered, "_from_brotli", lambda stream, form, *rest: (forms.add(form), read(stream, form, *rest))[1])
    monkeypatch.setattr(gathered, "unpco", lambda stream, unit, n: (units.add(unit.name), unpco(stream, unit, n))[1])
    archive_of("1.14", "gathered").to_table()
    assert {0, 2, 16, gathered.RUNS} <= forms and not units
    archive_of("1.16", "gathered").to_table()
    assert units == {"uint8", "uint16"}


def test_the_golden_archives_use_all_that_this_release_can_read():
    codings: set[str] = set()
    kinds: set[Any] = set()
    layers: set[str] = set()
    streams = 0
    for version, case in [(of, case) for of in CASES if of not in OLDER for case in CASES[of]]:
        archive = archive_of(version, case)
        for entry in archive.entries():
            model = archive.model(entry.model)
            kinds |= {plan.transform.order for plan in model.columns if isinstance(plan.transform, DigitText)}
            kinds |= {part for plan in model.columns if isinstance(plan.transform, TimeText) for part in plan.transform.parts}
            kinds |= {plan.transform.signs for plan in model.columns if isinstance(plan.transform, NumberText)}
            kinds |= {f"numbers in way {plan.transform.written.how}" for plan in model.columns if isinstance(plan.transform, NumberText)}
            codings |= {str(coding) for coding in entry.layout["codings"]}
            streams = max(streams, len(entry.layout["streams"]))
            layers |= {"preview"} if entry.layout["preview"] else set()
            layers |= {"network"} if model.distortion is not None and model.distortion.layer.decoder.network is not None else set()
            for tensor in model.tensors:
                kinds |= {f.kind for code in tensor.codes for digit in code.value.digits for f in digit.features}
                mixes = [code.value.linear.mixed for code in tensor.codes if code.value.linear is not None]
                kinds |= {f"{len(mixed.references)} references" for mixed in mixes if mixed is not None}
            for code in model.codes:
                for plan in (code.state, code.value):
                    kinds |= {"gathered"} if plan.gathered else {f"chunks of {plan.chunks.last}", f"chunks a {plan.chunks.part}th"}
                    kinds |= {feature.kind for digit in plan.digits for feature in digit.features} | {plan.scheme.to_json()[0]}
                    if plan.linear is not None:
                        kinds |= {term.kind for term in (*plan.linear.terms, *plan.linear.anchor_terms)}
                kinds |= {f"lanes of {code.value.chunks.stretch}"} if code.value.forward is not None else set()
                kinds |= {"forward"} if code.value.forward is not None else set()
                kinds |= {"sorted"} if code.value.forward else set()
                kinds |= ({f"form {code.form}"} if code.form else set()) | ({"recall"} if code.recall else set())
                kinds |= {"unit"} if code.recall is not None and code.recall.unit is not None else set()
    assert set(CODINGS) | {"learned", "latent"} <= codings and any(coding.startswith("uniform/") for coding in codings)
    assert {*COLUMN_KINDS, *OWN_KINDS, *TERM_KINDS, "digit", "direct", "residual"} <= kinds
    assert {"Y", "y", "-m", "b", "^b", "d", "-d", "H", "I", "-I", "M", "S", "3f", "p", "P", "a"} <= kinds
    assert {Signs(), Signs(ord(",")), Signs(ord("."), ord(","), first=True), Signs(ord(","), ord("."))} <= kinds
    assert {*ORDERS, CLOCK} <= kinds and {f"numbers in way {how}" for how in (FIXED, STRIPPED, KEPT_ONE)} <= kinds
    assert {"recall", "unit", "forward", "sorted", "gathered", "lead1"} <= kinds
    assert {kind.rstrip("0123456789").rstrip(">").rstrip("0123456789") for kind in kinds if ">" in str(kind)} == {"times", "over"}
    assert {f"{n} references" for n in range(3)} <= kinds
    assert {*(f"chunks of {n}" for n in LAST_CHUNKS), *(f"chunks a {n}th" for n in PARTS)} <= kinds
    assert {f"lanes of {n}" for n in (STRETCH, *SHORT_STRETCHES, *LONG_STRETCHES)} <= kinds
    assert {f"form {form}" for form in FORMS if form} <= kinds
    assert layers == {"preview", "network"} and streams > 1


@pytest.mark.parametrize("version", ["1.5", "1.6", "1.7", "1.8"])
def test_the_golden_history_has_what_snapshots_share(version):
    newest = archive_of(version, "history")
    manifest = newest.manifest
    n = len(manifest.shards)
    assert len(manifest.chapters) >= 1 and any(ref.path.startswith("schemas/") for ref in manifest.beside)
    assert [source.path for source in manifest.sources] == [f"{k:02}.parquet" for k in range(n)]
    for k, shard in enumerate(manifest.shards):
        assert shard.proof is not None and shard.proof.digest == f"{k:064x}"
        assert shard.proof.errors(newest.schema.names, "here") == {"temp": [0.05, 0.03, 50]}
    for number in newest.snapshots():
        held = open_archive(str(GOLDEN / version / "history" / "archive"), snapshot=number)
        assert_same(held.to_table(), expected(version, "history").slice(0, 50 * number))


READ = """
import sys
for name in ("torch", "prefect", "matplotlib"):
    sys.modules[name] = None
from storage import open_archive
from vae_core.quality import digest
for uri in sys.argv[1:]:
    archive = open_archive(uri)
    print(digest(archive.to_batches()), digest(archive.to_batches(preview=True)))
"""


@pytest.mark.parametrize(("threads", "kernel"), [("1", "on"), ("2", "on"), ("1", "off"), ("2", "off")])
def test_golden_archives_decode_to_the_same_bits_without_torch_on_any_threads_with_the_kernel_or_without(threads, kernel):
    env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "LATENTPACK_KERNEL": kernel}
    paths = [str(GOLDEN / version / case / "archive") for version, case in FOUND]
    done = subprocess.run([sys.executable, "-c", READ, *paths], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for line, (version, case) in zip(done.stdout.splitlines(), FOUND, strict=True):
        whole = expected(version, case)
        preview = expected(version, case, "preview") if case in WITH_PREVIEW else whole
        assert line.split() == [digest(whole.to_batches()), digest(preview.to_batches())], case


READ_ALL = """
import sys
from storage import open_archive
for path in sys.argv[1:]:
    archive = open_archive(path)
    list(archive.to_batches())
    archive.to_table(rows=(0, 1))
print(sorted({"torch", "prefect", "matplotlib", "pandas"} & set(sys.modules)))
"""


def test_reading_imports_neither_pandas_nor_what_trains():
    # pyarrow imports pandas for `pa.array` and `pa.scalar`: a third of a second of every process that reads a few rows
    archives = [str(GOLDEN / version / case / "archive") for version, case in FOUND]
    done = subprocess.run([sys.executable, "-c", READ_ALL, *archives], capture_output=True, text=True, check=True, timeout=300)
    assert len(archives) > 10 and done.stdout.strip() == "[]"
