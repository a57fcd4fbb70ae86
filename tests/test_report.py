"""The run report: arithmetic, JSON, and its three faces - terminal, HTML, markdown - for ordinary and hostile names."""

from __future__ import annotations

import functools
import html.parser
import importlib
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest

from flows import html as page
from flows import plots, table
from flows.accounts import siblings
from flows.report import (
    NOTHING_TO_DO,
    ColumnReport,
    LatentReport,
    OlderReport,
    PreviewColumn,
    PreviewReport,
    ProgressEvent,
    RunReport,
    TrainingPoint,
    TransferReport,
    VerificationReport,
)
from flows.terminal import ProgressLine

HOSTILE = '<script>alert("x")</script>|`$\\frac$ & \x1b[31mred\x07 名前'
DOCUMENTED_KEYS = {
    "rows", "raw_bytes", "archive_bytes", "latents", "corrections", "verbatim", "model", "metadata", "report_bytes",
    "conventional_bytes", "ratio_vs_raw", "ratio_vs_conventional", "columns", "transfer", "seconds", "peak_rss_bytes",
    "snapshot",
}  # fmt: skip


@functools.cache
def drawn() -> dict[str, str]:
    """The plots of the ordinary report, drawn once."""
    return plots.plots(a_report())


def a_report(**changes) -> RunReport:
    columns = [
        ColumnReport(name="dep_delay", coding="network", bytes=400, conventional_bytes=900),
        ColumnReport(
            name=HOSTILE,
            coding="pco",
            bytes=300,
            conventional_bytes=300,
            tolerance=0.5,
            tolerance_kind="absolute",
            max_abs_error=0.25,
        ),
        ColumnReport(
            name="temp",
            coding="latents",
            bytes=50,
            conventional_bytes=80,
            tolerance=0.1,
            tolerance_kind="rmse",
            max_abs_error=0.4,
            rmse=0.09,
        ),
    ]
    values = dict(
        source="flights/", archive="archive/", rows=1000, raw_bytes=2000, archive_bytes=1000,
        latents=100, corrections=500, verbatim=200, model=150, metadata=50,
        conventional_bytes=1500, columns=columns, snapshot=1,
        transfer=TransferReport(full_read_bytes=1000, preview_bytes=200),
        verification=VerificationReport(rows=1000, digest="ab"),
        training=[TrainingPoint(seconds=i, bits_per_row=9 - i / 9, held_out_bits_per_row=9 - i / 8) for i in range(20)],
        latent=LatentReport(n=2, zero_fraction=0.75, zero_fraction_by_dimension=[0.5, 1.0]),
    )  # fmt: skip
    return RunReport(**(values | changes))


def test_the_json_has_every_documented_key_and_comes_back():
    value = a_report().to_json()
    assert set(value) >= DOCUMENTED_KEYS
    assert set(value["columns"][0]) >= {
        "name",
        "coding",
        "bytes",
        "conventional_bytes",
        "tolerance",
        "max_abs_error",
        "violations",
    }
    assert set(value["seconds"]) >= {"ingest", "train", "encode", "verify"}
    assert sum(value["parts"].values()) == value["archive_bytes"]
    assert RunReport.from_json(value) == a_report()


def test_ratios_are_the_others_bytes_over_ours_and_savings_are_shares_of_the_others():
    report = a_report()
    assert report.ratio_vs_raw == 2.0 and report.saving_vs_raw_percent == 50.0
    assert report.ratio_vs_conventional == 1.5
    assert math.isclose(report.saving_vs_conventional_percent, 100 / 3)
    assert a_report(archive_bytes=0).ratio_vs_raw == 0.0


@pytest.mark.parametrize(
    ("conventional", "word"), [(1500, "33.3 % smaller"), (1001, "not worth it"), (900, "11.1 % larger")]
)
def test_the_verdict_says_plainly_whether_learning_was_worth_it(conventional, word):
    report = a_report(conventional_bytes=conventional)
    assert word in report.verdict
    assert report.verdict in table.run_table(report, 120)
    assert report.verdict.replace("'", "&#x27;") in page.html(report, {})


def test_the_verdict_says_what_older_snapshots_and_what_metadata_cost():
    report = a_report(archive_bytes=2000, conventional_bytes=1500, older=OlderReport(bytes=1000, model=100))
    assert report.verdict == (
        "The newest snapshot, 1.00 kB, is 33.3 % smaller than the best conventional coding at the same tolerance; with 1.00 kB that "
        "older snapshots hold, the archive is 33.3 % larger than it (`latentpack vacuum --keep N` lets old snapshots go)."
    )
    assert "1.00 kB of it only older snapshots hold" in table.run_table(report, 120)
    assert "of it only in older snapshots" in page.html(report, {}) and "only in older" not in page.html(a_report(), {})
    report = a_report(archive_bytes=3000, conventional_bytes=1500, older=OlderReport(bytes=1000, model=100))
    assert "33.3 % larger than the best" in report.verdict and "older ones hold 1.00 kB more" in report.verdict
    # columns of 750 bytes: 450 are won, and the model takes 150
    assert "paid for its model, not for the metadata" in a_report(archive_bytes=1300, conventional_bytes=1200).verdict
    assert "not enough to pay for its model" in a_report(archive_bytes=1000, conventional_bytes=890).verdict
    kept = [ColumnReport(name="x", coding="pco", bytes=1000, conventional_bytes=1000)]
    said = a_report(archive_bytes=1300, conventional_bytes=1000, model=50, columns=kept).verdict
    assert "conventional codings were kept, 250 B of metadata come on top" in said


def test_a_second_run_says_there_is_nothing_to_do():
    assert "Nothing to do" in table.run_table(a_report(status=NOTHING_TO_DO), 100)


def test_the_worst_column_is_the_one_that_used_most_of_its_tolerance():
    worst = a_report().worst
    assert worst is not None and worst.name == "temp"
    assert "90.0 % of its tolerance" in table.run_table(a_report(), 120)
    assert a_report(columns=[]).worst is None


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_the_column_table_fits_the_terminal_and_holds_no_control_characters(width):
    text = table.run_table(a_report(), width)
    lines = text.splitlines()
    ruler = next(i for i, line in enumerate(lines) if line.startswith("─"))
    assert all(table.cells(line) <= width for line in lines[ruler - 1 : ruler + 4])
    assert "\x1b" not in text and "\x07" not in text


def test_the_table_names_who_was_helped_and_where_the_bytes_went():
    text = table.run_table(a_report(), 120)
    assert "learning helped (2): dep_delay, temp" in text
    for part in ("latents", "corrections", "verbatim", "model", "metadata"):
        assert part in text
    assert "preview 200 B" in text


def test_hundreds_of_columns_are_cut_to_the_largest():
    columns = [ColumnReport(name=f"c{i}", bytes=i, conventional_bytes=i) for i in range(300)]
    text = table.run_table(a_report(columns=columns), 100)
    assert "… and 260 smaller columns" in text and "c299" in text
    assert len(page.markdown(a_report(columns=columns), {})) < 400_000


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (5_209_556, "5.21 MB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (12_345_678_901, "12.3 GB"),
    ],
)
def test_bytes_have_human_units(n, text):
    assert table.human_bytes(n) == text


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [
            v for k, v in attributes if k in ("src", "href", "xlink:href") and v and not v.startswith(("#", "data:"))
        ]


def test_the_page_is_self_contained_and_runs_nothing():
    tags = _Tags()
    tags.feed(page.html(a_report(), drawn()))
    assert tags.tags.count("svg") == 5
    assert "script" not in tags.tags and "link" not in tags.tags and "iframe" not in tags.tags
    assert tags.links == []


def test_names_are_text_everywhere():
    for text in (page.html(a_report(), drawn()), page.markdown(a_report(), drawn())):
        assert "<script>" not in text and "\x1b" not in text
    assert "&lt;script&gt;" in page.html(a_report(), {})


def test_every_plot_is_well_formed_svg_and_small_enough_for_an_artifact():
    assert list(drawn()) == ["Bytes", "Bytes by column", "Error against tolerance", "Training", "Latent sparsity"]
    for svg in drawn().values():
        ElementTree.fromstring(svg)
        assert len(plots.data_uri(svg)) < 60_000
    assert drawn() == plots.plots(a_report())


def test_the_plot_of_sparsity_shows_the_zeros_that_the_text_states():
    zeros = [0.9 - 0.001 * k for k in range(300)]
    latent = LatentReport(role="preview", kind="vae", n=300, window=4, zero_fraction=sum(zeros) / 300, zero_fraction_by_dimension=zeros)
    report = a_report(latent=latent)
    svg = plots.plots(report)["Latent sparsity"]
    assert "300 a window of 4 rows, 75.1 % zeros" in table.latent_text(report)
    assert "all: 75.1 %" in svg and "zeros, %" in svg and "the first 256 of 300" in svg and "not zero" not in svg
    heights = [_height(path) for path in re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: #7b5cd6', svg)]
    assert len(heights) == 256 and heights[0] / heights[200] == pytest.approx(zeros[0] / zeros[200], rel=1e-3)


def _height(path):
    ys = [float(y) for y in re.findall(r"[ML] [0-9.]+ ([0-9.]+)", path)]
    return max(ys) - min(ys)


def test_a_lossless_run_without_latents_has_no_empty_plots():
    bare = a_report(columns=[ColumnReport(name="a", bytes=1, conventional_bytes=1)], training=[], latent=LatentReport())
    assert list(plots.plots(bare)) == ["Bytes", "Bytes by column"]
    assert page.html(RunReport()).startswith("<!doctype html>") and "made for" not in page.html(RunReport())
    assert "reading soon where there is no C kernel" in page.html(RunReport(favours="reading"))


def test_every_table_of_columns_says_what_may_be_lost_of_each(monkeypatch):
    tasks, shown = importlib.import_module("flows.tasks"), {}
    monkeypatch.setattr(tasks, "create_markdown_artifact", lambda **artifact: None)
    monkeypatch.setattr(tasks, "create_table_artifact", lambda **artifact: shown.update(artifact))
    columns = [
        ColumnReport(name="key", bytes=1),
        ColumnReport(name="depth", bytes=1, tolerance=0.5, tolerance_kind="absolute", max_abs_error=0.25),
        ColumnReport(name="temp", bytes=1, tolerance=0.02, tolerance_kind="rmse", max_abs_error=9, rmse=0.01),
    ]
    report = a_report(columns=columns, training=[], latent=LatentReport())
    tasks.show(report)
    wanted = [("lossless", "0"), ("0.5", "0.25"), ("0.02 rmse", "0.01 rmse")]
    assert [(row["tolerance"], row["worst error"]) for row in shown["table"]] == wanted
    for text in (table.run_table(report, 120), page.html(report, {}), page.markdown(report, {})):
        for tolerance, error in wanted:
            assert tolerance in text and error in text


def test_the_markdown_has_the_plots_inside_and_one_row_a_column():
    text = page.markdown(a_report(), drawn())
    assert text.count("](data:image/svg+xml;base64,") == 5
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.endswith(" |") and "dep" in line]
    assert len(rows) == 1
    assert all(line.count("|") == 9 for line in text.split("## Columns")[1].splitlines() if line.startswith("|"))


SIBLINGS = [
    {"kind": "klt", "window": 16, "n_latents": 21, "n_bytes": 17434, "model_bytes": 2728, "worst_ratio": 0.98, "sparsity": 0.59},
    {"kind": "vae", "window": 16, "n_latents": 21, "n_bytes": 16325, "model_bytes": 4151, "worst_ratio": 0.99,
     "sparsity": 0.61, "chosen": True},
    {"kind": "uniform quantisation, conventional coding", "n_bytes": 27006},
]  # fmt: skip


def test_a_distortion_run_shows_its_siblings_at_the_same_error_and_its_sparsity():
    latent = LatentReport(role="distortion", kind="vae", n=21, window=16, n_bytes=14000, zero_fraction=0.61, comparison=SIBLINGS)
    report = a_report(latent=latent)
    text = table.run_table(report, 120)
    assert "VAE, 21 a window of 16 rows, 61.0 % zeros" in text
    (chosen,) = [line for line in text.splitlines() if line.endswith("chosen")]
    assert chosen.split() == ["VAE", "16", "21", "16,325", "4,151", "61.0", "%", "99.0", "%", "chosen"]
    assert "uniform steps" in text
    for shown in (page.html(report, {}), page.markdown(report, {})):
        assert "Siblings compared at the same error" in shown and "17,434" in shown and "27,006" in shown
    assert "Siblings" not in page.html(a_report(), {})


@pytest.mark.parametrize(
    ("in_shards", "chosen"), [([True, True], ["klt"]), ([False], ["uniform"]), ([True, False], ["klt", "uniform"])]
)
def test_chosen_is_what_the_shards_hold(in_shards, chosen):
    base = SimpleNamespace(layer=SimpleNamespace(kind="klt", window=4, n_latents=4))
    rows = [{"kind": "uniform", "n_bytes": 5}, *({"kind": "klt", "window": n, "n_latents": n, "n_bytes": n} for n in (8, 4))]
    assert [row["kind"] for row in siblings(rows, base, in_shards, falls_back=True) if row["chosen"]] == chosen
    assert [row["kind"] for row in siblings(rows, None, in_shards, falls_back=True) if row["chosen"]] == ["uniform"]
    assert any(row["chosen"] for row in siblings(rows, base, in_shards)) == any(in_shards)


def test_the_quality_of_the_preview_is_stated_by_column_and_in_one_line():
    columns = [PreviewColumn(name=name, relative_rmse=error) for name, error in (("x", 0.2), ("y", 0.4))]
    columns.append(PreviewColumn(name="k", accuracy=0.9))
    preview = PreviewReport(bytes=100, columns=columns, comparison=[dict(SIBLINGS[0], mean_ratio=0.3)])
    report = a_report(preview=preview)
    line = "100 B of latents (10.0 % of the archive) give RMSE 0.30 of the standard deviation, 90 % of the categories right"
    assert line in table.run_table(report, 120) and line in page.html(report, {})
    assert "40.0 %" in page.html(report, {}) and "Previews compared at the same budget" in page.markdown(report, {})


def test_names_in_a_markdown_heading_are_escaped_by_backslashes_because_prefect_shows_entities_as_they_are():
    heading = page.markdown(a_report(source="raw/my_data*"), {}).splitlines()[0]
    assert heading == r"# raw/my\_data\* → archive/"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_shows_bits_per_row_falling_and_rows_a_second():
    stream = _Terminal()
    with ProgressLine(stream) as progress:
        progress(ProgressEvent(stage="train", done=0, total=90, bits_per_row=80.0))
        progress(ProgressEvent(stage="train", done=90, total=90, bits_per_row=54.25, held_out_bits_per_row=54.5))
        progress(ProgressEvent(stage="encode", done=0, total=1000))
    text = stream.getvalue()
    assert "80.00 → 54.25 bits/row (held out 54.50)" in text and "90 of 90 s" in text
    assert "\r" in text and text.endswith("\n")


def test_progress_in_a_log_is_plain_lines_and_quiet_is_silent():
    stream, silent = io.StringIO(), io.StringIO()
    with ProgressLine(stream) as progress, ProgressLine(silent, quiet=True) as nothing:
        for report in (progress, nothing):
            for i in range(1000):
                report(ProgressEvent(stage="encode", done=i, total=1000))
            report(ProgressEvent(stage="encode", done=1000, total=1000))
            for seconds in (89, 90, 90.5, 91):
                report(ProgressEvent(stage="train", message="preview", done=seconds, total=90, bits_per_row=2.0))
    assert stream.getvalue().splitlines() == [
        "encode   0 of 1,000 rows", "encode   1,000 of 1,000 rows",
        "train    preview layer  2.00 bits/row  89 of 90 s", "train    preview layer  2.00 bits/row  90 of 90 s",
    ]  # fmt: skip
    assert silent.getvalue() == ""
