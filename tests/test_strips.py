"""Columns side by side that are one vector a row: found where they pay, the same table whatever is in them, read and told by name."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from divided import assert_joins_again
from hypothesis import given, settings

from flows.accounts import by_column, by_leaf
from flows.cli import main
from flows.report import ColumnReport
from storage import open_archive
from storage.errors import CorruptArchive
from storage.leaves import KEY, Leaves, Recipe, find_recipe
from storage.nodes import share_of
from vae_core.coders import conventional
from vae_core.columns import Codes, ColumnPlan, TableProfile, encode_column, plan_columns
from vae_core.strips import pays

NUMBERS = [pa.int8(), pa.int64(), pa.uint16(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()]


def pictures(n: int, seed: int = 0, side: int = 8) -> pa.Table:
    """A label, and a column for each pixel of soft pictures."""
    rng = np.random.default_rng(seed)
    place = np.arange(side)
    middle, width = rng.uniform(0, side, (n, 2, 1, 1)), rng.uniform(2, 5, (n, 1, 1))
    away = (place[:, None] - middle[:, 0]) ** 2 + (place - middle[:, 1]) ** 2
    cells = np.clip(220 * np.exp(-away / width**2) + rng.normal(0, 3, (n, side, side)), 0, 255).astype(np.int64).reshape(n, -1)
    return pa.table({"label": pa.array(np.arange(n) % 10), **{f"pixel{k}": pa.array(cells[:, k]) for k in range(side * side)}})


def recipe_of(table: pa.Table, bounded: tuple[str, ...] = ()) -> Recipe:
    return find_recipe(table.schema, lambda: table.combine_chunks().to_batches()[0], bounded)


@st.composite
def batches(draw: st.DrawFn) -> tuple[pa.RecordBatch, Recipe]:
    """Some stretches of columns of one type, nulls and all, and strips that fit them, or do not."""
    n_rows, fields, arrays, strips = draw(st.integers(0, 9)), list[pa.Field](), list[pa.Array](), dict[str, int]()
    for k in range(draw(st.integers(1, 4))):
        kind, n, nullable = draw(st.sampled_from([*NUMBERS, pa.string()])), draw(st.integers(1, 5)), draw(st.booleans())
        numbers = st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")]) if pa.types.is_floating(kind) else st.integers(0, 100)
        value = st.sampled_from(["", "x"]) if kind == pa.string() else numbers
        for j in range(n):
            cells = draw(st.lists(st.one_of(st.none(), value) if nullable else value, min_size=n_rows, max_size=n_rows))
            fields.append(pa.field(f"{k}.{j}", kind, nullable, draw(st.sampled_from([None, {"unit": "m"}]))))
            arrays.append(pa.array([np.float16(c) if kind == pa.float16() and c is not None else c for c in cells], kind))
        if draw(st.booleans()):
            strips[f"{k}.0"] = draw(st.sampled_from([n, n, n, 1, n + 1, -1, 10**9]))
    batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata=draw(st.sampled_from([None, {"made": "by hand"}]))))
    start = draw(st.integers(0, n_rows))
    return batch.slice(start, draw(st.integers(0, n_rows - start))), Recipe(strips=strips)


@settings(max_examples=300, deadline=None)
@given(batches())
def test_strips_join_to_what_was_split(case: tuple[pa.RecordBatch, Recipe]) -> None:
    assert_joins_again(*case)


def test_columns_are_one_where_that_takes_less() -> None:
    table = pictures(300)
    assert recipe_of(table).strips == {"pixel0": 64}, "of the same type, and no pixel: the label"
    leaves = Leaves.of(table.schema, recipe_of(table))
    assert leaves.schema.names == ["label", "pixel0:pixel63"]
    assert leaves.shown[1][1:] == (pa.list_(pa.field("item", pa.int64()), 64), ("pixel0:pixel63",))
    for other in (pa.table({"empty": pa.array([], pa.string())}), table.slice(0, 0), table.select(table.schema.names[:31])):
        assert not find_recipe(other.schema, lambda other=other: other.to_batches()[0] if other.num_rows else None).strips


def test_what_is_better_apart_stays_so() -> None:
    rng = np.random.default_rng(3)
    n = 2000
    sensors = {f"s{k}": np.cumsum(rng.integers(-3, 4, n)) * (7 * k + 1) + 10**6 * k for k in range(40)}  # ranges and steps of their own
    assert not recipe_of(pa.table(sensors)).strips
    category = rng.integers(0, 40, n)
    flags = {f"f{k}": (category == k).astype(np.int8) for k in range(40)}  # of which each tells the others
    assert not recipe_of(pa.table(flags)).strips


def test_what_is_bounded_is_a_column_of_its_own() -> None:
    table = pictures(300)
    assert recipe_of(table, ("*",)).strips == {"pixel0": 64}, "the bound of all floats is none of integers"
    assert recipe_of(table, ("pixel63",)).strips == {"pixel0": 63}
    assert not recipe_of(table, ("pixel30",)).strips, "33 behind it are not nearly the whole table"
    assert not recipe_of(table, ("pixel0:pixel63",)).strips, "no name of a column"
    floats = pa.table({name: column.cast(pa.float32()) for name, column in zip(table.schema.names, table.columns, strict=True)})
    assert recipe_of(floats).strips == {"pixel0": 64} and not recipe_of(floats, ("*",)).strips


def test_what_other_columns_tell_is_not_given_up() -> None:
    table = pictures(300)
    halves = {f"half{k}": pa.array(table.column(f"pixel{k}").to_numpy() / 2) for k in range(64)}
    both = pa.table({name: column for name, column in zip(table.schema.names, table.columns, strict=True)} | halves)
    assert not recipe_of(both).strips, "each of which follows from another"
    order = [name for k in range(64) for name in (f"pixel{k}", f"half{k}")]
    mixed = pa.table({name: both.column(name).cast(pa.float64()) for name in order})
    assert not recipe_of(mixed).strips, "as they do side by side"


def test_a_name_that_is_taken_is_not_given_to_a_strip() -> None:
    table = pictures(300)
    label = table.column("label").cast(pa.string())
    struct = pa.StructArray.from_arrays([label.combine_chunks()], names=["a"])
    for other in (label, struct):
        assert not recipe_of(table.append_column("pixel0:pixel63", other)).strips


def changing(n: int, *, ids: bool, seed: int = 0) -> pa.Table:
    """Soft pictures for as long as strips are decided by them, then n rows of sensors, categories and floats of their own, or of ids."""
    rng = np.random.default_rng(seed)
    first = pictures(4096, seed).drop_columns(["label"])
    kinds = (
        lambda k: np.cumsum(rng.integers(-3, 4, n)) * (7 * k + 1) + 10**4 * k,
        lambda k: rng.choice(rng.integers(0, 1 << 40, 20), n),
        lambda k: rng.integers(0, 2, n) * (1000 * k + 7),
    )
    if ids:  # of which a few thousand rows hold few twice
        kinds = (lambda k: rng.choice(rng.integers(0, 1 << 62, 2_900), n),)
    return pa.table({name: np.concatenate([first.column(name), kinds[k % len(kinds)](k)]) for k, name in enumerate(first.schema.names)})


@pytest.mark.parametrize("ids", [False, True])
def test_a_strip_that_turns_out_to_be_columns_is_no_larger_than_these(ids: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    table, report = changing(20_000, ids=ids), tmp_path / "report.json"
    assert recipe_of(table.slice(0, 4096)).strips == {"pixel0": 64}
    pq.write_table(table, tmp_path / "in.parquet")
    assert main(["run", str(tmp_path / "in.parquet"), str(tmp_path / "archive"), "--time-budget", "3", "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    (plans, encoded) = planned(table)
    apart = sum(conventional.rank(p, table.column(p.index), c)[0][1] for p, c in zip(plans, encoded, strict=True))
    assert told["archive_bytes"] <= 1.005 * apart + 8192
    assert told["conventional_bytes"] <= 1.005 * apart, "no saving is told that columns would have had, too"
    assert open_archive(str(tmp_path / "archive")).to_table().equals(table)


def planned(table: pa.Table) -> tuple[list[ColumnPlan], list[Codes | None]]:
    """Every column's plan and codes, as if it were alone."""
    profile = TableProfile(table.schema)
    profile.update(table)
    plans = plan_columns(table.schema, profile.finish(), table, {})
    return plans, [None if plan.kind == "verbatim" else encode_column(plan, table.column(plan.index)) for plan in plans]


def test_vectors_pay_by_what_is_stored_of_them() -> None:
    rng = np.random.default_rng(5)
    noise = [pa.array(rng.integers(0, 1000, 4000)) for _ in range(32)]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.stack([c.to_numpy() for c in noise], 1).ravel()), 32)
    assert not pays(noise, vectors), "noise is noise"
    assert not pays([c.slice(0, 0) for c in noise], vectors.slice(0, 0))


@pytest.mark.parametrize(
    "strips",
    [{"a": 2}, {"b": 3}, {"a": -1, "b": 2}, {"c": 4}, {"a": "3"}, {"a": 3.0}, {"a": None}, {"a": 1 << 70}, [], 7, {"a": 3, "b": 3}],
)
def test_a_schema_that_lies_about_its_strips_is_damage(strips: object) -> None:
    outer = pa.schema([("a", pa.int8()), ("b", pa.int8()), ("c", pa.int8())])
    flat = Leaves.of(outer, Recipe(strips={"a": 3})).schema
    about = json.dumps({"structs": [], "shapes": {}, "elements": [], "strips": strips}).encode()
    told = flat.with_metadata({KEY: about + b"\n" + outer.serialize().to_pybytes()})
    if strips == {"a": 3, "b": 3}:  # says the same: what is within a strip begins none
        assert Leaves.read(told).schema.names == ["a:c"]
        return
    with pytest.raises(CorruptArchive, match="nested columns"):
        Leaves.read(told)


def test_a_schema_of_strips_with_columns_of_one_name_is_damage() -> None:
    outer = pa.schema([("a", pa.int8()), ("a", pa.int8()), ("b", pa.int8())])
    about = json.dumps(Recipe(strips={"a": 3}).to_json()).encode()
    flat = pa.schema([pa.field("a:b", pa.list_(pa.field("item", pa.int8()), 3), nullable=False)])
    with pytest.raises(CorruptArchive, match="two have one name"):
        Leaves.read(flat.with_metadata({KEY: about + b"\n" + outer.serialize().to_pybytes()}))


def test_many_strips_that_do_not_fit_are_refused_in_little_time() -> None:
    n = 20_000
    outer = pa.schema([(f"c{k}", pa.int8()) for k in range(n)] + [("s", pa.string())])
    lies = Recipe(strips={f"c{k}": n + 1 - k for k in range(n)})
    assert len(Leaves.of(outer, lies).nodes) == n + 1  # looked at from each of them on, they would take minutes


def test_a_report_has_a_line_for_each_column_and_one_for_the_strip() -> None:
    leaves = Leaves.of(pictures(300).schema, Recipe(strips={"pixel0": 64}))
    lines = [ColumnReport(name="label", bytes=5), ColumnReport(name="pixel0:pixel63", bytes=1000, conventional_bytes=2001, violations=1)]
    found = by_column(lines, leaves)
    assert [line.name for line in found] == ["label", *(f"pixel{k}" for k in range(64))]
    assert [sum(getattr(line, key) for line in found[1:]) for key in ("bytes", "conventional_bytes", "violations")] == [1000, 2001, 1]
    assert {line.type for line in found[1:]} == {"int64"} and {line.bytes for line in found[1:]} == {15, 16}
    assert [line.name for line in by_leaf(lines, leaves)] == ["label", "pixel0:pixel63"]
    assert {line.n_null for line in found[1:]} == {None} and sum(share_of(10, k, 3) for k in range(3)) == 10


def test_an_archive_of_strips_is_read_by_name_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    source, place, report = tmp_path / "in", tmp_path / "archive", tmp_path / "report.json"
    source.mkdir()
    required = pa.schema([pa.field(name, pa.int64(), nullable=False) for name in pictures(1).schema.names])
    first, second = pictures(400).cast(required), pictures(120, seed=1).cast(required)
    pq.write_table(first, source / "a.parquet")
    arguments = ["run", str(source), str(place), "--time-budget", "5", "--json", str(report)]
    assert main(arguments) == 0
    told = json.loads(report.read_text())
    assert [column["name"] for column in told["columns"]] == first.schema.names
    assert sum(column["bytes"] for column in told["columns"]) <= told["archive_bytes"]
    archive = open_archive(str(place))
    assert archive.leaves.schema.names == ["label", "pixel0:pixel63"] and archive.schema.equals(first.schema, check_metadata=True)
    assert archive.to_table().equals(first)
    names = ["pixel7", "label", "pixel3"]
    assert archive.to_table(columns=names, rows=(100, 130)).equals(first.select(names).slice(100, 30))
    vectors = archive.to_table(columns=["pixel0:pixel63"]).column(0)
    assert vectors[5].as_py() == [first.column(f"pixel{k}")[5].as_py() for k in range(64)]
    preview = archive.to_table(preview=True)
    assert preview.schema.equals(first.schema) and preview.num_rows == 400
    assert main(["read", str(place), str(tmp_path / "seen.parquet"), "--preview"]) == 0

    pq.write_table(second, source / "b.parquet")
    assert main(arguments) == 0 and main(["verify", str(place), "--source", str(source)]) == 0
    assert open_archive(str(place)).to_table().equals(pa.concat_tables([first, second]))
    capsys.readouterr()
    assert main([*arguments, "--tolerance", "pixel5=3"]) == 2
    assert "'pixel0:pixel63': this run asks for 3, the archive was made with lossless" in capsys.readouterr().err
    assert main([*arguments, "--tolerance", "pixel5=3", "--retrain"]) == 0
    both, now = pa.concat_tables([first, second]), open_archive(str(place)).to_table()
    assert now.drop_columns(["pixel5"]).equals(both.drop_columns(["pixel5"]))
    off = np.abs(now.column("pixel5").to_numpy() - both.column("pixel5").to_numpy())
    assert 0 < off.max() <= 3
    assert main(["info", str(place)]) == 0


def test_a_bound_is_each_column_s_however_it_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTPACK_SERVER", "off")
    table = pictures(300)
    floats = pa.table({f"a{k}": pa.array(table.column(f"pixel{k}").to_numpy() / (3 if k else 3000)) for k in range(64)})
    pq.write_table(floats, tmp_path / "in.parquet")
    for spec, bounded in (("* =10%", floats.schema.names), ("a2 =1", ["a2"])):
        place = tmp_path / spec.replace(" ", "").replace("*", "all")
        assert main(["run", str(tmp_path / "in.parquet"), str(place), "--time-budget", "3", "--tolerance", spec]) == 0
        now = open_archive(str(place)).to_table()
        for name in floats.schema.names:
            was = floats.column(name).to_numpy()
            bound = 0.0 if name not in bounded else 1.0 if spec.startswith("a2") else 0.1 * (was.max() - was.min())
            assert np.abs(now.column(name).to_numpy() - was).max() <= bound, name
