"""The benchmark of learned and optional peers: bytes alone give the table back, the CSV is what the README shows, folders are walked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import bench, peers, preview, readme, reads, results, scale, tables  # noqa: E402
from benchmarks.codecs import container, dataset, integers  # noqa: E402
from benchmarks.codecs.shape import LOSSLESS, Effort  # noqa: E402

OTHERS = (*peers.OPTIONAL, *peers.LEARNED)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    rng = np.random.default_rng(0)
    n = 700
    x = np.cumsum(rng.normal(size=n))
    y = (3 * x + rng.normal(size=n)).astype("float32")
    y[:3] = np.nan, np.inf, -0.0
    tensor = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=3 * n).astype("float32")), 3)
    return pa.table(
        {
            "x": pa.array(x, mask=rng.random(n) < 0.1),
            "y": y,
            "n": rng.integers(-50, 50, n),
            "sorted": np.cumsum(rng.integers(0, 3, n)),
            "wide": rng.integers(-(2**62), 2**62, n),
            "word": pa.array(rng.choice(["alpha", "beta", "gamma"], n), mask=rng.random(n) < 0.1),
            "free": [f"text {i * i}" for i in range(n)],
            "when": pa.array(rng.integers(0, 10**9, n), pa.timestamp("ms", "UTC")),
            "tensor": tensor,
        },
        metadata={b"kept": b"too"},
    )


@pytest.mark.parametrize("bound", [LOSSLESS, "1%", "numeric:5%"])
@pytest.mark.parametrize("name", [peer.name for peer in OTHERS])
def test_a_peer_gives_the_table_back_from_its_bytes_alone(name, bound, table):
    peer = next(p for p in OTHERS if p.name == name)
    if peer.missing(bound):
        pytest.skip(peer.missing(bound))
    bounds = dataset.tolerances(table, bound)
    decoded = peer.decode(bytes(peer.encode(table, bounds, Effort(2.0))))
    share, violations = peers.compare(table, decoded, bounds)
    assert violations == 0 and share <= 1.0
    assert decoded.schema.equals(table.schema, check_metadata=True)


@pytest.mark.parametrize("name", [peer.name for peer in peers.ALL])
def test_a_peer_takes_a_table_it_cannot_learn_anything_of(name):
    peer = next(p for p in peers.ALL if p.name == name)
    if peer.missing(LOSSLESS):
        pytest.skip(peer.missing(LOSSLESS))
    one = pa.table({"constant": [7, 7, 7], "empty": pa.array([None, None, None], pa.float64()), "text": ["a", None, "b"]})
    for table in (one, one.select(["text"]), one.slice(0, 1)):
        assert peer.decode(peer.encode(table, {}, Effort(1.0))).equals(table)


def test_a_peer_that_is_not_installed_says_so_and_one_without_a_lossless_mode_too():
    import dataclasses

    absent = dataclasses.replace(peers.PEERS[0], needs="no_such_module_anywhere")
    assert not absent.available and absent.missing("1%") == "the package no_such_module_anywhere is not installed"
    bounded = dataclasses.replace(peers.PEERS[0], has_lossless=False)
    assert bounded.missing(LOSSLESS) == "has no lossless mode" and not bounded.missing("1%")


@pytest.mark.parametrize("span", [1, 2, 511, 513, 70_000, 1 << 40])
def test_integers_come_back_whatever_their_span(span):
    rng = np.random.default_rng(span)
    values, context = rng.integers(0, span, 900), rng.integers(0, 5, 900)
    shifted = values - span // 2
    for code, truth in (
        (lambda coder, known: integers.code_values(coder, 900, span, [context], [5], known), values),
        (lambda coder, known: integers.code_residuals(coder, 900, [context], [5], known), shifted),
    ):
        coder = integers.Writer()
        code(coder, truth)
        assert (code(integers.Reader(coder.finish()), None) == truth).all()


def test_parts_of_a_payload_come_back():
    parts = [b"", b"a", bytes(127), bytes(128), bytes(70_000)]
    assert container.unpack(container.pack(parts)) == parts


def test_a_bound_for_numbers_names_integers_too_and_one_that_names_nothing_is_left_out(table):
    assert dataset.specs(table.schema, LOSSLESS) == []
    assert dataset.specs(table.schema, "1%") == ["*=1%"]
    assert {spec.partition("=")[0] for spec in dataset.specs(table.schema, "numeric:5%")} == {"x", "y", "n", "sorted", "wide", "tensor"}
    assert dataset.says_something(table.schema, "1%") and dataset.says_something(table.select(["n"]).schema, LOSSLESS)
    assert not dataset.says_something(table.select(["n"]).schema, "1%")


def test_every_file_of_a_folder_and_the_folders_in_it_is_a_dataset(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for path in ("a.parquet", "deep/b.npy", "deep/er/a.parquet", "deep/notes.txt"):
        (tmp_path / path).write_bytes(b"")
    assert list(bench.datasets(tmp_path, [])) == ["a", "deep/b", "deep/er/a"]
    assert list(bench.datasets(tmp_path, ["deep/b"])) == ["deep/b"]


def test_the_benchmark_says_what_it_can_do(capsys):
    with pytest.raises(SystemExit, match="0"):
        bench.main(["--help"])
    assert "default lossless,1%" in capsys.readouterr().out


def test_the_benchmark_measures_writes_after_every_row_and_resumes(tmp_path, capsys):
    rng = np.random.default_rng(1)
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"n": rng.integers(0, 9, 2000), "m": rng.integers(0, 9, 2000)}), tmp_path / "data" / "small.parquet")
    (tmp_path / "data" / "broken.npy").write_bytes(b"no array")
    out = tmp_path / "out.csv"
    command = ["--data", str(tmp_path / "data"), "--peers", "parquet-zstd-3", "bayes-net", "--time-budget", "2", "--out", str(out)]
    assert bench.main(command) == 1  # for the broken file
    rows = results.read_csv(out)
    assert [row["codec"] for row in rows] == ["parquet-zstd-3", "bayes-net", results.WITHOUT_LATENTS, results.OURS, results.FOR_READING]
    assert {row["bound"] for row in rows} == {LOSSLESS}  # no float column: 1 % would be lossless again
    for ours in rows[-2:]:
        assert float(ours["one_column_read_bytes"]) > 0 and float(ours["decode_mb_s_without_kernel"]) > 0
        assert float(ours["first_full_read_s"]) > 0
    for row in rows:
        assert int(row["violations"]) == 0 and row["commit"] and row["cores"]
        assert float(row["ratio_vs_conventional"]) == pytest.approx(int(ours["conventional_bytes"]) / int(row["bytes"]), rel=1e-3)
    capsys.readouterr()
    assert bench.main([*command, "--resume", "--datasets", "small"]) == 0
    assert "bayes-net" not in capsys.readouterr().out and results.read_csv(out) == rows


def test_the_tables_say_where_what_they_show_was_measured():
    common = {"dataset": "d", "columns": "2", "bound": "lossless", "bytes": "9", "date": "2026-01-02", "cores": "2", "cpu": "new"}
    common |= {"ratio_vs_conventional": "1", "worst_error_share": "0", "commit": "def"}
    early = {"date": "2026-01-01", "commit": "abc", "cpu": "old"}
    rows = [common | {"codec": codec} for codec in ("quantise+pcodec", "klt", results.OURS)]
    rows += [common | early | {"codec": codec} for codec in ("autoencoder", "vae")]
    assert "Measured on 2026-01-02 at commit `def` on 2 cores of new: " in tables.main_table(rows)
    later = " autoencoder + residual, VAE + residual: measured on 2026-01-01 at commit `abc` on 2 cores of old."
    assert tables.peer_table(rows).endswith("CSV says why." + later) and tables.peer_table(rows[:3]).endswith("CSV says why.")


def test_the_tables_show_a_dash_for_what_was_not_measured():
    common = {"dataset": "d", "bound": "1%", "worst_error_share": "0.5", "decode_mb_s": "1"}
    rows = [
        common | {"codec": "sz3", "bytes": "", "reason": "the package pysz is not installed"},
        common | {"codec": "bayes-net", "bytes": "50", "ratio_vs_conventional": "2"},
        common | {"codec": results.OURS, "bytes": "80", "ratio_vs_conventional": "1.25"},
    ]
    assert "| d | ±1 % | – | 2.00 | 1.25 |" in tables.peer_table(rows)
    wide = [row | {"bound": "numeric:5%", "csv_bytes": "1000", "date": "2026-01-01", "commit": "abc"} for row in rows]
    assert "| d | ±5 % | – | – | 8.00 % |" in tables.deepsqueeze_table(wide) and tables.peer_table(wide) == ""


def test_the_ratio_is_to_the_least_that_report_and_conventional_peers_measure():
    def case(dataset: str, bound: str, ours: int, reported: int, peer: int) -> list[dict]:
        about = {"dataset": dataset, "bound": bound, "worst_error_share": "0", "date": "", "commit": "", "cores": "2", "cpu": ""}
        rows = [about | {"codec": codec, "bytes": str(n)} for codec, n in ((results.OURS, ours), ("quantise+pcodec", peer), ("klt", 1))]
        return [rows[0] | {"conventional_bytes": str(reported)}, *rows[1:]]

    rows = [*case("a", "lossless", 100, 200, 400), *case("b", "lossless", 100, 800, 400), *case("b", "1%", 100, 900, 900)]
    results.complete(rows)
    assert [row["ratio_vs_conventional"] for row in rows if row["codec"] == results.OURS] == [2, 4, 9]
    assert {row["conventional_bytes"] for row in rows if row["dataset"] == "b"} == {800, 900}
    said = tables.main_table(rows)
    assert "geometric mean: lossless 2.83, ±1 % 9.00, and with datasets" in said and "as they are: ±1 % 4.24." in said
    array = [row | {"columns": "1"} for row in case("c", "lossless", 100, 900, 900)]
    rows = [*(row | {"columns": "2"} for row in rows), *array]
    results.complete(rows)
    assert "so of tables alone, without arrays: lossless 2.83, ±1 % 4.24." in tables.main_table(rows)


def test_what_is_favoured_is_shown_beside_the_default():
    common = {"dataset": "d", "bound": "lossless", "bytes": "8000", "decode_mb_s": "99.6", "decode_mb_s_without_kernel": "14.4"}
    quick = {"bytes": "9000", "decode_mb_s": "180", "decode_mb_s_without_kernel": "", "ratio_vs_conventional": "2.5"}
    rows = [common | {"codec": results.OURS}, common | {"codec": results.FOR_READING} | quick]
    assert "| d | lossless | 8,000 | 100 | 14 | 9,000 | 180 | – | 2.50 |" in tables.favour_table(rows)
    assert tables.favour_table(rows[:1]) == ""


def test_previews_are_measured_at_the_same_bytes_of_every_row(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    n = 12_000
    kind = rng.choice(3, n, p=[0.8, 0.15, 0.05])
    place, size = np.repeat(rng.integers(0, 500, n // 100), 100), kind * 700 + rng.integers(0, 40, n)
    columns = {"place": place, "kind": kind.astype(str), "size": size}
    pq.write_table(pa.table(columns), tmp_path / "long.parquet")
    pq.write_table(pa.table({"few": [1, 2, 3]}), tmp_path / "short.parquet")
    monkeypatch.setattr(preview, "LEAST_ROWS", n)
    monkeypatch.setattr(preview, "SHARES", (0.1,))
    out = tmp_path / "preview.csv"
    assert preview.main(["--data", str(tmp_path), "--archive", "long=40000", "--out", str(out)]) == 0
    rows = results.read_csv(out)
    assert [(row["dataset"], row["codec"]) for row in rows] == [("long", "klt"), ("long", "vae")]
    for row in rows:
        assert 0 < int(row["bytes"]) <= 4000 and int(row["bytes"]) == int(row["latent_bytes"]) + int(row["model_bytes"])
        assert float(row["error_least"]) <= float(row["error"]) <= float(row["error_most"])
    assert float(rows[1]["error"]) < float(rows[0]["error"]) < 1 and int(rows[1]["bytes"]) <= int(rows[0]["bytes"])
    assert f"| long | 10 % | {int(rows[0]['bytes']):,} | " in tables.preview_table(rows) and tables.preview_table([]) == ""


def test_reads_of_few_rows_are_measured_by_the_rows_of_a_block(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    rng = np.random.default_rng(3)
    n = 32_768
    pq.write_table(pa.table({"when": np.arange(n) // 7, "what": rng.integers(0, 1 << 40, n)}), tmp_path / "events.parquet")
    out = tmp_path / "reads.csv"
    assert reads.main(["--data", str(tmp_path), "--block-rows", "32768", "1024", "--out", str(out)]) == 0
    rows = results.read_csv(out)
    assert [(row["block_rows"], row["codec"]) for row in rows] == [(b, c) for b in ("32768", "1024") for c in (reads.PARQUET, results.OURS)]
    sizes, moved = zip(*((int(row["bytes"]), int(row["thousand_rows_read_bytes"])) for row in rows), strict=True)
    assert all(m > 0.9 * size for m, size in zip(moved[:2], sizes[:2], strict=True))  # one block is all there is
    assert all(m < 0.3 * size for m, size in zip(moved[2:], sizes[2:], strict=True)) and sizes[3] > sizes[1]
    assert f"| events | 1,024 | {sizes[2]:,} | " in tables.blocks_table(rows) and tables.blocks_table([]) == ""
    assert reads.places(500) == [(0, 500)] * reads.PLACES and all(b - a == reads.SOME_ROWS for a, b in reads.places(n))


def test_runs_over_more_rows_are_held_to_a_limit_of_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    monkeypatch.setattr(scale, "RESULTS", tmp_path / "scale.csv")
    monkeypatch.setattr(scale, "ROWS", (3000,))
    monkeypatch.setattr(scale.readme, "main", lambda _: 0)
    assert scale.main(["--rows", "3000"]) == 0 and "3,000 rows" in capsys.readouterr().out
    (row,) = results.read_csv(tmp_path / "scale.csv")
    assert 0 < int(row["archive_bytes"]) < int(row["arrow_bytes"]) < int(row["peak_rss_bytes"]) and row["commit"]
    assert tables.scale_table([row]).splitlines()[2].startswith("| 3,000 | 0 MB | 0 MB | ") and tables.scale_table([]) == ""
    monkeypatch.setattr(scale, "measure", lambda _: row | {"arrow_bytes": 1, "peak_rss_bytes": 2_000_000})
    assert scale.main(["--rows", "5", "--limit-mb", "2"]) == 0 and scale.main(["--rows", "5", "--limit-mb", "1"]) == 1


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_pages_and_the_plot_are_what_the_committed_csv_gives(page, tmp_path):
    copy = tmp_path / "README.md"
    page = page.read_text(encoding="utf-8")
    copy.write_text(page, encoding="utf-8")
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "readme.py"), str(copy), str(readme.RESULTS)], check=True)
    assert copy.read_text(encoding="utf-8") == page
    assert readme.RESULTS.with_suffix(".svg").exists()


def test_the_plot_is_drawn_the_same_each_time(tmp_path):
    from benchmarks.plot import draw

    rows = results.read_csv(readme.RESULTS)
    for name in ("a.svg", "b.svg"):
        draw(rows, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_csv_of_a_table_is_counted_where_there_can_be_one(table):
    flat = pa.table({"n": [1, 22], "word": ["a", None]})
    assert dataset.csv_bytes(flat) == len(b'"n","word"\n1,"a"\n22,\n')
    assert dataset.csv_bytes(table.select(["tensor"])) is None
