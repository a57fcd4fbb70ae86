"""What becomes of rows and promises when files of a source are copied, replaced, renamed and dropped."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from flows import assemble, cli, encode, verify
from flows.launch import run_pipeline
from flows.report import NOTHING_TO_DO
from flows.settings import RunRequest
from storage import open_archive
from storage.coverage import miscounted
from storage.entries import SourceRecord
from vae_core.errors import BadInput, VerificationFailed


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def put(path, seed, n_rows=300, suffix=".parquet"):
    table = pa.table({"x": np.random.default_rng(seed).integers(0, 50, n_rows), "y": np.arange(n_rows) // 7})
    pyarrow.csv.write_csv(table, path) if suffix == ".csv" else pq.write_table(table, path)


def run(**values):
    return run_pipeline(RunRequest(source="raw", archive="archive", time_budget_s=1, preview="off", **values))


def assert_holds_the_source(raw):
    """Every row of every file, once, in order; and verify says so."""
    read = pyarrow.csv.read_csv if any(raw.glob("*.csv")) else pq.read_table
    wanted = pa.concat_tables(read(path) for path in sorted(raw.iterdir()))
    assert open_archive("archive").to_table().equals(wanted)
    assert [source.path for source in open_archive("archive").manifest.sources] == sorted(path.name for path in raw.iterdir())
    assert cli.main(["verify", "archive", "--source", "raw", "--quiet"]) == 0


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("victim", ["a", "b"])
def test_files_of_the_same_content_are_replaced_and_dropped_on_their_own(raw, suffix, at_once, victim):
    for name in "abc":
        put(raw / f"{name}{suffix}", seed=1, suffix=suffix)
        if not at_once:
            run(shard_rows=300)
    if at_once:
        run(shard_rows=300)
    assert_holds_the_source(raw)
    put(raw / f"{victim}{suffix}", seed=2, n_rows=77, suffix=suffix)
    run(shard_rows=300)
    assert_holds_the_source(raw)
    (raw / f"{victim}{suffix}").unlink()
    run(drop_missing=True)
    assert_holds_the_source(raw)


def test_a_renamed_file_can_be_dropped_under_its_old_name_and_brought_back(raw):
    put(raw / "a.parquet", 1)
    put(raw / "b.parquet", 2)
    run(shard_rows=300)
    (raw / "b.parquet").rename(raw / "z.parquet")
    run()
    run(drop_missing=True)
    assert_holds_the_source(raw)
    (raw / "z.parquet").rename(raw / "b.parquet")
    run(drop_missing=True)
    assert_holds_the_source(raw)
    assert run().status == NOTHING_TO_DO


def test_a_shard_staged_by_a_killed_run_does_not_stand_for_a_file_of_another_name(raw, monkeypatch):
    put(raw / "a.parquet", 1)
    with monkeypatch.context() as killed:
        killed.setattr(verify, "verify_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    (raw / "a.parquet").rename(raw / "z.parquet")
    run()
    assert_holds_the_source(raw)
    put(raw / "z.parquet", 3, 100)
    run()
    assert_holds_the_source(raw)


def test_a_snapshot_that_would_not_hold_each_row_once_is_not_committed(raw, monkeypatch):
    put(raw / "a.parquet", 1)
    monkeypatch.setattr(assemble, "sources_of", lambda *_: (SourceRecord("a.parquet", 9, n_rows=301),))
    with pytest.raises(VerificationFailed, match=r"a\.parquet has 301 rows, and shards hold 300 of it; nothing was committed"):
        run()
    with pytest.raises(BadInput, match="no snapshot yet"):
        open_archive("archive")


def test_verify_refuses_a_snapshot_that_does_not_hold_each_row_once(raw, monkeypatch, capsys):
    put(raw / "a.parquet", 1)
    with monkeypatch.context() as before:
        before.setattr(assemble, "miscounted", lambda *_: None)
        twice = SourceRecord("a.parquet", 9, n_rows=300), SourceRecord("b.parquet", 9, n_rows=5)
        before.setattr(assemble, "sources_of", lambda *_: twice)
        run()
    assert cli.main(["verify", "archive"]) == 5
    assert "snapshot 1: b.parquet has 5 rows, and shards hold 0 of it; keep the raw data" in capsys.readouterr().err


class Piece:
    def __init__(self, path, start, stop):
        self.path, self.start, self.stop = path, start, stop


class Entry:
    def __init__(self, n_rows, *pieces):
        self.n_rows, self.sources = n_rows, [Piece(*piece) for piece in pieces]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([Entry(5, ("a", 0, 5)), Entry(4, ("a", 5, None))], None),
        ([Entry(4, ("a", 5, 9)), Entry(6, ("a", 0, 5), ("b", 0, None))], None),
        ([Entry(5, ("a", 0, 5)), Entry(5, ("a", 0, 5)), Entry(4, ("a", 5, 9))], "rows 0 to 5 of a are in two shards"),
        ([Entry(5, ("a", 0, 5)), Entry(2, ("a", 7, 9))], "rows 5 to 7 of a are in no shard"),
        ([Entry(5, ("a", 0, 5))], "a has 9 rows, and shards hold 5 of it"),
        ([Entry(9, ("a", 0, 9)), Entry(3, ("c", 0, 3))], "shards hold rows of c, which is no file of this snapshot"),
        ([Entry(9)], None),
    ],
)
def test_rows_of_files_are_counted(entries, said):
    assert miscounted(entries, [SourceRecord("a", 90, n_rows=9), SourceRecord("b", 10)]) == said


def test_verify_names_files_of_the_source_that_came_later(raw, capsys):
    put(raw / "a.parquet", 1)
    run()
    for name in "bc":
        put(raw / f"{name}.parquet", 2)
    assert cli.main(["verify", "archive", "--source", "raw"]) == 3
    assert "raw: snapshot 1 does not hold 'b.parquet' and 1 other, which came later" in capsys.readouterr().err
    run()
    assert_holds_the_source(raw)


def test_an_archive_of_widened_files_is_verified_against_them(raw, capsys):
    pq.write_table(pa.table({"x": pa.array([1, 2, 3], pa.int32())}), raw / "a.parquet")
    pq.write_table(pa.table({"x": [0.5, 1.5]}), raw / "b.parquet")
    run(widen=True)
    assert cli.main(["verify", "archive", "--source", "raw"]) == 0


RANGE_OF_NOISE = 8.5


@pytest.mark.parametrize(("asked", "worst"), [("x=1%", RANGE_OF_NOISE / 100), ("x=rmse:1%", None), ("x=psnr:40", None)])
@pytest.mark.parametrize("how", ["replaced", "dropped"])
def test_a_bound_of_a_range_that_has_gone_is_made_anew(raw, asked, worst, how):
    rng = np.random.default_rng(7)
    noise = {name: rng.normal(size=2000) for name in "ab"}
    broken = noise["a"].copy()
    broken[5] = 1e6
    pq.write_table(pa.table({"x": broken}), raw / "a.parquet")
    pq.write_table(pa.table({"x": noise["b"]}), raw / "b.parquet")
    first = run(shard_rows=2000, tolerances=[asked])
    if how == "replaced":
        pq.write_table(pa.table({"x": noise["a"]}), raw / "a.parquet")
    else:
        (raw / "a.parquet").unlink()
    report = run(shard_rows=2000, tolerances=[asked], drop_missing=how == "dropped")
    assert first.decision == "first" and report.decision == "new-generation"
    assert "column 'x': the range of the rows that are left is" in report.statement
    wanted = np.concatenate([noise[path.stem] for path in sorted(raw.iterdir())])
    off = np.abs(open_archive("archive").to_table()["x"].to_numpy() - wanted)
    limit = 0.01 * np.ptp(wanted)
    assert (off.max() if worst else np.sqrt(np.square(off).mean())) <= limit
    assert run(tolerances=[asked]).status == NOTHING_TO_DO


def test_ranges_that_grow_or_stay_keep_the_bound_they_have(raw):
    for name, scale in (("a", 1.0), ("b", 1.0), ("c", 5.0)):
        pq.write_table(pa.table({"x": np.sin(np.arange(900) / 9) * scale}), raw / f"{name}.parquet")
        report = run(shard_rows=900, tolerances=["x=1%"])
    assert report.decision == "append"
    pq.write_table(pa.table({"x": np.cos(np.arange(900) / 9)}), raw / "b.parquet")
    assert run(tolerances=["x=1%"]).decision == "replace"


def test_a_bound_that_cannot_be_made_anew_for_rows_without_a_file_is_refused(raw):
    for name in "abc":
        pq.write_table(pa.table({"x": np.sin(np.arange(900) / 9) * (100.0 if name == "a" else 1.0)}), raw / f"{name}.parquet")
    run(shard_rows=900, tolerances=["x=1%"])
    shutil.move(raw / "b.parquet", raw.parent / "b.parquet")
    shutil.copy(raw / "c.parquet", raw / "a.parquet")
    with pytest.raises(BadInput, match=r"column 'x': the range .* b\.parquet, which has vanished .* bring it back, or let its rows go"):
        run(tolerances=["x=1%"])
    shutil.move(raw.parent / "b.parquet", raw / "b.parquet")
    assert run(tolerances=["x=1%"]).decision == "new-generation"


def test_rows_that_are_kept_without_a_file_count_for_the_range(raw):
    for name in "abc":
        pq.write_table(pa.table({"x": np.sin(np.arange(900) / 9) * (100.0 if name == "a" else 1.0)}), raw / f"{name}.parquet")
    run(shard_rows=900, tolerances=["x=1%"])
    (raw / "a.parquet").unlink()
    pq.write_table(pa.table({"x": np.cos(np.arange(900) / 9)}), raw / "b.parquet")
    assert run(tolerances=["x=1%"]).decision == "replace"


def test_a_new_generation_leaves_rows_of_vanished_files_out_only_when_asked_to(raw):
    for name in "ab":
        put(raw / f"{name}.parquet", ord(name))
    run()
    (raw / "a.parquet").unlink()
    with pytest.raises(BadInput, match=r"a\.parquet vanished .* would leave its rows out: bring it back, or .* by --drop-missing"):
        run(retrain=True)
    assert run(retrain=True, drop_missing=True).rows == 300
    assert_holds_the_source(raw)


def test_a_file_without_rows_stays_known_when_every_shard_is_replaced(raw):
    put(raw / "a.parquet", 1)
    put(raw / "empty.parquet", 1, n_rows=0)
    run()
    put(raw / "a.parquet", 2, 40)
    run()
    assert_holds_the_source(raw)
    assert run().status == NOTHING_TO_DO


def test_rows_are_in_the_order_of_the_source_again_when_a_vanished_file_is_back(raw):
    for k, name in enumerate("abd"):
        put(raw / f"{name}.parquet", k)
    run()
    shutil.move(raw / "b.parquet", raw.parent / "b.parquet")
    put(raw / "c.parquet", 4)
    run()
    assert open_archive("archive").manifest.extra["unordered"] is True
    assert run().status == NOTHING_TO_DO
    shutil.move(raw.parent / "b.parquet", raw / "b.parquet")
    run()
    assert_holds_the_source(raw)
    assert "unordered" not in open_archive("archive").manifest.extra and run().status == NOTHING_TO_DO


def test_files_joined_in_one_shard_part_again_when_the_one_between_them_is_back(raw):
    for k, name in enumerate("abc"):
        put(raw / f"{name}.parquet", k)
        run()
    shutil.move(raw / "b.parquet", raw.parent / "b.parquet")
    for k, name in enumerate("ac"):
        put(raw / f"{name}.parquet", 7 + k)
    run()
    assert len(open_archive("archive").manifest.shards) == 2
    assert run().status == NOTHING_TO_DO
    shutil.move(raw.parent / "b.parquet", raw / "b.parquet")
    run()
    assert_holds_the_source(raw)
    assert "unordered" not in open_archive("archive").manifest.extra and run().status == NOTHING_TO_DO


def test_a_staged_shard_that_fails_its_proof_is_encoded_anew_by_the_next_run(raw, monkeypatch):
    put(raw / "a.parquet", 1)
    encode_shard = encode.encode_shard

    def of_other_rows(model, table, **options):
        return encode_shard(model, table.take(np.arange(len(table))[::-1]), **options)

    with monkeypatch.context() as wrong:
        wrong.setattr(encode, "encode_shard", of_other_rows)
        with pytest.raises(VerificationFailed):
            run()
    run()
    assert_holds_the_source(raw)
