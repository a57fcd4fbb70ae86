"""The pipeline from end to end on small real files, without Prefect: what is decided, stored, replaced, refused."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import abandoned, assemble, encode, ingest, proof, retrying
from flows.ingest import closure
from flows.inventory import inventory
from flows.launch import run_pipeline
from flows.report import COMMITTED, NOTHING_TO_DO
from flows.settings import RunRequest
from flows.table import info_table, run_table, vacuum_table
from flows.verify import verify_archive
from flows.words import human_bytes
from storage import open_archive
from storage.objects import ObjectStore
from storage.writer import vacuum
from vae_core import choosing
from vae_core.errors import BadInput, Conflict, CorruptArchive, LatentpackError, Unreachable, UsageError, VerificationFailed
from vae_core.shard import Measure

N_ROWS = 700


def table(seed, n_rows=N_ROWS, shift=0.0):
    draw = np.random.default_rng(seed)
    state = draw.integers(0, 6, n_rows)
    return pa.table(
        {
            "kind": pa.array([f"k{value}" for value in state]),
            "count": pa.array(state * 3 + draw.integers(0, 2, n_rows)),
            "temp": pa.array(np.round(state * 1.5 + draw.normal(size=n_rows) * 0.3 + shift, 2)),
        }
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    (tmp_path / "raw").mkdir()
    for day in (1, 2):
        pq.write_table(table(day), tmp_path / "raw" / f"day-{day}.parquet")
    return tmp_path


def request(place: Path, **values) -> RunRequest:
    return RunRequest(source=str(place / "raw"), archive=str(place / "archive"), **{"time_budget_s": 2, "preview": "off"} | values)


def raw(place: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted((place / "raw").glob("*.parquet")))


def stored(place: Path, snapshot=None) -> pa.Table:
    return open_archive(str(place / "archive"), snapshot=snapshot).to_table()


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_first_run_stores_the_source_and_reports_what_lies_on_disk(place):
    heard = []
    report = run_pipeline(request(place), progress=heard.append)
    assert stored(place).equals(raw(place))
    on_disk = {name: len(data) for name, data in files_under(place / "archive").items()}
    assert report.status == COMMITTED and report.snapshot == 1 and report.rows == 2 * N_ROWS
    assert report.archive_bytes == sum(size for name, size in on_disk.items() if not name.startswith("reports/"))
    assert report.archive_bytes == sum(report.parts.values())
    assert report.report_bytes == sum(size for name, size in on_disk.items() if name.startswith("reports/"))
    assert json.loads(Path(report.report_json).read_text())["report_bytes"] == report.report_bytes
    assert next(event.stage for event in heard if event.message) == "ingest"
    assert {"ingest", "train", "encode", "verify", "commit", "report"} <= {event.stage for event in heard}
    assert not list((place / "home" / "runs").iterdir())


def test_a_second_run_on_the_same_source_has_nothing_to_do_even_when_a_file_was_touched(place):
    run_pipeline(request(place))
    before = files_under(place / "archive")
    (place / "raw" / "day-1.parquet").touch()
    report = run_pipeline(request(place))
    assert report.status == NOTHING_TO_DO and report.snapshot == 1
    assert files_under(place / "archive") == before


def test_new_files_alone_are_encoded_and_take_their_place_in_the_order_of_the_source(place):
    run_pipeline(request(place))
    first = open_archive(str(place / "archive")).manifest
    pq.write_table(table(0), place / "raw" / "day-0.parquet")
    pq.write_table(table(3), place / "raw" / "day-3.parquet")
    report = run_pipeline(request(place))
    second = open_archive(str(place / "archive")).manifest
    assert report.n_new_rows == 2 * N_ROWS and report.rows == 4 * N_ROWS
    assert {shard.id for shard in first.shards} < {shard.id for shard in second.shards}
    assert stored(place).equals(raw(place))
    assert stored(place, snapshot=1).num_rows == 2 * N_ROWS


def test_what_the_records_say_is_not_said_again_and_is_found_all_the_same(place):
    report = run_pipeline(request(place))
    archive = open_archive(str(place / "archive"))
    first, entries = archive.manifest, archive.entries()
    assert not first.ledger and "bits_per_value" not in first.extra
    shown = inventory(str(place / "archive"))
    assert {c["name"]: (c["coding"], c["bytes"]) for c in shown["columns"]} == {c.name: (c.coding, c.bytes) for c in report.columns}
    assert shown["conventional_bytes"] == report.conventional_bytes
    assert shown["verification"]["digest"] == report.verification.digest
    assert list(shown["verification"]["shards"]) == [shard.id for shard in first.shards]
    pq.write_table(table(3), place / "raw" / "day-3.parquet")
    assert run_pipeline(request(place)).drift.ratio == pytest.approx(1.0, abs=0.1)
    figures = open_archive(str(place / "archive")).manifest.extra["bits_per_value"]
    told = [entries[0].bits_per_value.get(name) for name in first.schema.names]
    assert figures == {first.models[-1].digest: pytest.approx(told, rel=1e-3)} and len(entries) == 1


def test_a_changed_file_is_replaced_with_every_file_of_its_shard_and_the_old_snapshot_stays(place):
    run_pipeline(request(place))
    before = raw(place)
    pq.write_table(table(9, N_ROWS + 5), place / "raw" / "day-2.parquet")
    report = run_pipeline(request(place))
    assert stored(place).equals(raw(place)) and stored(place, snapshot=1).equals(before)
    assert "changed" in report.statement


def test_rows_of_a_vanished_file_stay_unless_asked_to_drop_them(place):
    before = raw(place)
    run_pipeline(request(place, shard_rows=N_ROWS))
    (place / "raw" / "day-1.parquet").unlink()
    assert run_pipeline(request(place, shard_rows=N_ROWS)).status == NOTHING_TO_DO
    assert stored(place).equals(before)
    run_pipeline(request(place, shard_rows=N_ROWS, drop_missing=True))
    assert stored(place).equals(raw(place)) and stored(place).num_rows == N_ROWS


def test_a_vanished_file_that_shares_a_shard_with_a_changed_one_is_named(place):
    run_pipeline(request(place))
    (place / "raw" / "day-1.parquet").unlink()
    pq.write_table(table(9), place / "raw" / "day-2.parquet")
    with pytest.raises(BadInput, match=r"day-1\.parquet vanished"):
        run_pipeline(request(place))


def test_other_tolerances_than_the_archive_has_are_refused_unless_a_new_generation_is_asked_for(place):
    run_pipeline(request(place))
    with pytest.raises(UsageError, match=r"'temp': this run asks for 5%, the archive was made with lossless"):
        run_pipeline(request(place, tolerances=["temp=5%"]))
    report = run_pipeline(request(place, tolerances=["temp=5%"], retrain=True))
    worst = np.abs(stored(place)["temp"].to_numpy() - raw(place)["temp"].to_numpy()).max()
    (column,) = [column for column in report.columns if column.name == "temp"]
    assert 0 < worst <= column.tolerance and worst == pytest.approx(column.max_abs_error)
    assert stored(place, snapshot=1).equals(raw(place))


def test_new_data_that_the_model_does_not_fit_refreshes_it_and_old_shards_stay_readable(place):
    run_pipeline(request(place))
    draw = np.random.default_rng(5)
    strange = pa.table(
        {
            "kind": pa.array([f"k{value}" for value in draw.integers(0, 6, N_ROWS)]),
            "count": pa.array(draw.integers(0, 20, N_ROWS)),
            "temp": pa.array(np.round(draw.normal(size=N_ROWS) * 90, 2)),
        }
    )
    pq.write_table(strange, place / "raw" / "day-3.parquet")
    report = run_pipeline(request(place))
    manifest = open_archive(str(place / "archive")).manifest
    assert report.drift.ratio is not None and report.drift.ratio > 1.1 and report.drift.refreshed
    assert len(manifest.models) == 2 and len({shard.model for shard in manifest.shards}) == 2
    assert stored(place).equals(raw(place))


def test_a_decoded_value_outside_its_promise_stops_the_run_and_nothing_is_committed(place, monkeypatch):
    honest = proof.decode_block

    def wrong(*arguments, **options):
        decoded = honest(*arguments, **options)
        values = decoded["count"].to_pylist()
        values[123] += 1
        return decoded.set_column(1, decoded.schema.field(1), pa.array(values))

    monkeypatch.setattr(proof, "decode_block", wrong)
    with pytest.raises(VerificationFailed, match=r"column 'count', row 123: 1 values differ, worst error 1; nothing"):
        run_pipeline(request(place))
    assert not list((place / "archive").glob("snapshots/*"))


def run_killed_at(place, step, **values):
    def killed(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, step, killed)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(request(place, **values))


def test_a_run_killed_before_the_commit_is_finished_by_the_next_without_encoding_again(place, monkeypatch):
    run_killed_at(place, "commit_run", time_budget_s=120)  # which no fit of these takes: one that the clock ends is another each time
    assert not list((place / "archive").glob("snapshots/*"))
    monkeypatch.setattr(encode, "encode_shard", None)
    run_pipeline(request(place, time_budget_s=120))
    assert stored(place).equals(raw(place))


def test_the_report_of_a_run_killed_between_commit_and_report_is_made_up_for_by_the_next(place):
    run_killed_at(place, "report_run")
    run = open_archive(str(place / "archive")).manifest.run
    before = files_under(place / "archive")
    report = run_pipeline(request(place))
    written = {f"reports/{run}.html", f"reports/{run}.json"}
    assert report.status == NOTHING_TO_DO and files_under(place / "archive").keys() == before.keys() | written
    assert f"it is made up for now: {place / 'archive' / 'reports' / run}.html" in run_table(report)
    told = json.loads((place / "archive" / "reports" / f"{run}.json").read_text())
    assert told["snapshot"] == 1 and told["rows"] == raw(place).num_rows == told["verification"]["rows"] and told["run"] == run
    on_disk = {path: len(data) for path, data in files_under(place / "archive").items() if not path.startswith("reports/")}
    assert told["archive_bytes"] == sum(on_disk.values())
    assert "knows nothing of training" in (place / "archive" / "reports" / f"{run}.html").read_text()
    assert not run_pipeline(request(place)).note


def test_a_missing_report_that_cannot_be_written_is_told_of(place, monkeypatch):
    run_killed_at(place, "report_run")
    monkeypatch.setattr(assemble, "write_report", refused)
    assert "none could be written (read only)" in run_table(run_pipeline(request(place)))


def refused(*_):
    raise OSError("read only")


def test_what_runs_left_unfinished_is_shown_apart(place, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    run_pipeline(request(place))
    shown = inventory(str(place / "archive"))
    assert shown["unfinished_bytes"] == 0 and "unfinished:" not in info_table(shown)
    pq.write_table(table(3), place / "raw" / "day-3.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(assemble, "commit_run", killed)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(request(place))
    left = inventory(str(place / "archive"))
    n_bytes = left["archive_bytes"] - shown["archive_bytes"]
    assert left["unfinished_bytes"] == n_bytes > 0 and left["archive_bytes"] == sum(left["parts"].values())
    assert left["parts"]["metadata"] == shown["parts"]["metadata"] + n_bytes
    lines = {line.split()[0]: line for line in info_table(left).splitlines() if line.startswith("    ")}
    assert f" {n_bytes:,} B" in lines["unfinished"] and f" {shown['parts']['metadata']:,} B" in lines["metadata"]
    store = ObjectStore.open(str(place / "archive"))
    kept = vacuum(store)
    assert kept.paths == () and kept.pending_bytes == n_bytes
    told = vacuum_table(kept, dry_run=False)
    assert "nothing to remove" in told and f"kept {kept.n_pending} objects, {human_bytes(n_bytes)}" in told


def test_of_two_runs_at_once_one_commits_and_the_other_says_so(place, monkeypatch):
    honest = assemble.draft

    def overtaken(*arguments):
        manifest = honest(*arguments)
        if not list((place / "archive").glob("snapshots/*")):
            assemble.commit(arguments[0], manifest)
        return manifest

    monkeypatch.setattr(assemble, "draft", overtaken)
    with pytest.raises(Conflict):
        run_pipeline(request(place))
    assert stored(place).equals(raw(place))


def test_a_source_with_another_schema_than_the_archive_is_refused_by_field(place):
    run_pipeline(request(place))
    for path in (place / "raw").iterdir():
        pq.write_table(pq.read_table(path).set_column(1, "count", pa.array(["x"] * N_ROWS)), path)
    with pytest.raises(BadInput, match="field 'count' is string in the source and int64 in the archive"):
        run_pipeline(request(place))


def test_metadata_of_a_later_file_is_warned_of_once_a_run(place, caplog):
    day = table(2)
    pq.write_table(day.cast(day.schema.set(2, day.schema.field(2).with_metadata({"unit": "K"}))), place / "raw" / "day-2.parquet")
    run_pipeline(request(place))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1 and "day-2.parquet: field 'temp' has other metadata than in" in told[0]


def test_verify_finds_a_flipped_bit_and_a_source_that_is_not_the_one_that_was_stored(place):
    report = run_pipeline(request(place))
    good = verify_archive(str(place / "archive"), source=str(place / "raw"))
    assert good["rows"] == 2 * N_ROWS and not good["violations"] and not good["mismatches"]
    assert good["digest"] == report.verification.digest
    part = verify_archive(str(place / "archive"), sample=0.01)
    assert part["blocks"] == 1
    pq.write_table(table(77), place / "raw" / "day-2.parquet")
    bad = verify_archive(str(place / "archive"), source=str(place / "raw"))
    assert bad["mismatches"] > 0 and any(column["first_violation_row"] is not None for column in bad["columns"])
    target = next((place / "archive").glob("shards/*/corrections.parquet"))
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(bytes(data))
    with pytest.raises(CorruptArchive, match=r"corrections\.parquet"):
        verify_archive(str(place / "archive"))


def test_a_new_generation_says_what_the_old_one_still_costs(place):
    assert run_pipeline(request(place)).older.bytes == 0
    pq.write_table(table(3), place / "raw" / "day-3.parquet")
    report = run_pipeline(request(place, retrain=True))
    store = ObjectStore.open(str(place / "archive"))
    freed = vacuum(store, keep=1, dry_run=True)
    assert report.older.bytes == freed.n_bytes
    assert report.older.model == sum(store.size(path) for path in freed.paths if path.startswith("models/")) > 0
    assert report.archive_bytes == sum(store.size(info.path) for info in store.list("") if not info.path.startswith("reports/"))


def test_folders_of_killed_runs_go_when_they_are_old_and_nobody_is_at_work_in_them(place):
    now = datetime.now(UTC)
    dead, working, fresh = (ingest.new_run(now) for _ in range(3))
    runs = place / "home" / "runs"
    for run in (dead, working, fresh, "mine"):
        (runs / run / "staging").mkdir(parents=True)
        (runs / run / "staging" / "x").touch()
    with abandoned.at_work(working):
        week = now.timestamp() - 8 * 24 * 3600
        for run in (dead, working, "mine"):
            for path in (*(runs / run).rglob("*"), runs / run):
                os.utime(path, (week, week))
        run_pipeline(request(place))
        assert {path.name for path in runs.iterdir()} == {working, fresh, "mine"}


def test_verify_names_a_source_that_is_another_one_as_it_was_given(place):
    run_pipeline(request(place))
    (place / "other.parquet").write_bytes((place / "raw" / "day-2.parquet").read_bytes())
    with pytest.raises(BadInput) as refused:
        verify_archive(str(place / "archive"), source=str(place / "other.parquet"))
    said = str(refused.value)
    assert said == f"{place}/other.parquet: has no file 'day-1.parquet', and the archive (made from {place}/raw) holds rows of it"


def test_shards_that_share_files_with_a_replaced_file_go_with_it_and_no_others():
    shards = {"s1": {"a"}, "s2": {"a", "b"}, "s3": {"b", "c"}, "s4": {"d"}}
    assert closure({"c"}, shards) == ({"a", "b", "c"}, {"s1", "s2", "s3"})
    assert closure({"d"}, shards) == ({"d"}, {"s4"})
    assert closure({"new"}, shards) == ({"new"}, set())


def test_only_errors_that_may_pass_are_tried_again():
    assert retrying.may_pass(ConnectionResetError("gone")) and retrying.may_pass(TimeoutError("slow"))
    assert not retrying.may_pass(BadInput("no")) and not retrying.may_pass(ValueError("bug"))
    assert not retrying.may_pass(FileNotFoundError("no such file")) and retrying.may_pass(Unreachable("asleep"))


def test_an_error_of_a_run_is_the_error_itself(place):
    with pytest.raises(LatentpackError, match="nowhere"):
        run_pipeline(RunRequest(source=str(place / "nowhere"), archive=str(place / "archive")))
    assert ingest.new_run() != ingest.new_run()


def test_a_run_that_compares_by_a_sample_stores_the_same_and_reports_about_as_much(place):
    n = 66_000
    pq.write_table(table(3, n), place / "raw" / "day-3.parquet")
    found = {}
    for how in ("full", "sampled"):
        asked = {"source": str(place / "raw" / "day-3.parquet"), "archive": str(place / how), "time_budget_s": 10, "preview": "off"}
        found[how] = run_pipeline(RunRequest(**asked, compare=how))
        assert open_archive(str(place / how)).to_table().equals(pq.read_table(place / "raw" / "day-3.parquet"))
    full, sampled = found["full"], found["sampled"]
    assert 0.6 * full.conventional_bytes < sampled.conventional_bytes < 1.1 * full.conventional_bytes
    assert full.conventional_bytes != sampled.conventional_bytes  # or nothing was told by a sample
    for report in found.values():
        seconds = report.seconds
        assert 0 < seconds.compare < seconds.total and 0 < seconds.encode < seconds.total
        assert report.favours == "balance" and "made for" in Path(report.report_html).read_text()


def test_a_shard_whose_rows_are_not_like_those_looked_at_is_encoded_again(place, monkeypatch):
    """Whatever a part of the rows says, no column is learned that a conventional coding takes fewer bytes for, more than a trifle."""
    pq.write_table(pa.table({"x": np.random.default_rng(1).integers(0, 1000, 70_000)}), place / "raw" / "noise.parquet")
    monkeypatch.setattr(choosing.peers.Race, "likely_above", lambda *_: 1e9)
    calls, encode_shard = [], encode.encode_shard

    def learned_at_any_price(model, rows, **options):
        calls.append((options.get("measure"), "known" in options))
        return encode_shard(model, rows, **options)

    monkeypatch.setattr(encode, "encode_shard", learned_at_any_price)
    monkeypatch.setattr(choosing.peers.Race, "reported", lambda race, learned, by_part=False: round(0.99 * learned))
    source = str(place / "raw" / "noise.parquet")
    report = run_pipeline(RunRequest(source=source, archive=str(place / "noise"), time_budget_s=3, preview="off"))
    assert calls == [(Measure.LATER, False), (None, True)]
    assert all(line.bytes <= 1.005 * line.conventional_bytes + 64 for line in report.lines)
