"""Nested columns as their leaves, and back: the same table, whatever is in it; learned, bounded and read like flat columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
from storage.errors import CorruptArchive, UsageError
from storage.leaves import KEY, WHOLE, Leaves, Recipe, find_recipe
from storage.sources import open_source
from vae_core.tolerance import parse_tolerances

NUMBERS = [pa.int8(), pa.int64(), pa.uint16(), pa.float32(), pa.float64()]
PLAIN = [*NUMBERS, pa.bool_(), pa.string(), pa.binary(), pa.timestamp("us", "UTC"), pa.map_(pa.string(), pa.int8())]


def lists_of(kind: pa.DataType) -> st.SearchStrategy[pa.DataType]:
    return st.sampled_from([pa.list_(kind), pa.large_list(kind), pa.list_(pa.field("element", kind, nullable=False))])


@st.composite
def kinds(draw: st.DrawFn, depth: int = 3) -> pa.DataType:
    what = draw(st.sampled_from(["plain", "vector", "list", "lists", "struct", "list of structs"])) if depth else "plain"
    if what == "vector":
        vector = pa.list_(pa.field("element", draw(st.sampled_from(NUMBERS)), draw(st.booleans())), 2)
        tensors = [pa.fixed_shape_tensor(pa.int16(), shape) for shape in ([2], [1, 2])] if depth == 3 else []  # Arrow makes none in structs
        return draw(st.sampled_from([vector, *tensors]))
    if what == "list":
        return draw(lists_of(draw(st.sampled_from([*NUMBERS, pa.string()]))))
    if what == "lists":
        return draw(lists_of(draw(lists_of(draw(st.sampled_from(NUMBERS))))))
    if what == "struct":
        names = draw(st.lists(st.sampled_from(["a", "b", "a.b", "x:valid", "", "é"]), max_size=3, unique=True))
        return pa.struct([pa.field(name, draw(kinds(depth - 1)), draw(st.booleans())) for name in names])
    if what == "list of structs":
        return pa.list_(pa.struct([("x", draw(st.sampled_from(NUMBERS))), ("y", pa.string())]))
    return draw(st.sampled_from(PLAIN))


def values_of(kind: pa.DataType, nullable: bool = True) -> st.SearchStrategy[object]:
    t = pa.types
    kind = kind.storage_type if isinstance(kind, pa.FixedShapeTensorType) else kind
    if t.is_struct(kind):
        found: st.SearchStrategy[object] = st.fixed_dictionaries({item.name: values_of(item.type, item.nullable) for item in kind})
    elif t.is_map(kind):
        found = st.lists(st.tuples(st.sampled_from("pqr"), st.integers(-9, 9)), max_size=2)
    elif t.is_list(kind) or t.is_large_list(kind):
        item = values_of(kind.value_type, kind.value_field.nullable)
        found = st.one_of(st.lists(item, min_size=2, max_size=2), st.lists(item, max_size=4))
    elif t.is_fixed_size_list(kind):
        found = st.lists(values_of(kind.value_type, kind.value_field.nullable), min_size=2, max_size=2)
    elif t.is_floating(kind):
        found = st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")])
    elif t.is_integer(kind):
        found = st.integers(0, 100)
    elif t.is_boolean(kind):
        found = st.booleans()
    elif t.is_timestamp(kind):
        found = st.integers(0, 10**9)
    else:
        found = st.sampled_from(["", "x", "yz"]) if t.is_string(kind) else st.sampled_from([b"", b"\x00\xff"])
    return st.one_of(st.none(), found) if nullable else found


@st.composite
def tables(draw: st.DrawFn) -> pa.RecordBatch:
    n_rows = draw(st.integers(0, 12))
    names = draw(st.lists(st.sampled_from(["s", "t", "s.a", "s:valid", "v", "v:others"]), min_size=1, max_size=4, unique=True))
    fields = [pa.field(name, draw(kinds()), metadata=draw(st.sampled_from([None, {"unit": "m"}]))) for name in names]
    arrays = [pa.array(draw(st.lists(values_of(item.type), min_size=n_rows, max_size=n_rows)), item.type) for item in fields]
    metadata = draw(st.sampled_from([None, {b"made": b"by hand"}, {KEY: b"not ours"}]))
    batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))
    start = draw(st.integers(0, n_rows))
    return batch.slice(start, draw(st.integers(0, n_rows - start)))


@settings(max_examples=400, deadline=None)
@given(tables(), st.booleans())
def test_leaves_join_to_what_was_split(batch, looked):
    assert_joins_again(batch, find_recipe(batch.schema, lambda: batch.slice(0, 3) if looked else None))


def test_a_flat_table_is_stored_as_ever():
    schema = pa.schema([("a", pa.int64()), ("b", pa.list_(pa.string()))], metadata={"k": "v"})
    assert Leaves.of(schema, find_recipe(schema, lambda: None)).schema is schema and Leaves.read(schema).is_flat


def test_columns_of_the_same_path_are_left_whole():
    inner = pa.struct([("b", pa.int8())])
    clash = pa.schema([("a", pa.struct([("b", inner), ("c", pa.int8())])), ("a.b", inner), ("z", inner)])
    leaves = Leaves.of(clash, find_recipe(clash, lambda: None))
    assert leaves.schema.names == ["a:valid", "a.b", "a.c", "a.b", "z:valid", "z.b"] or len(set(leaves.schema.names)) == len(leaves.schema)
    assert "z.b" in leaves.schema.names


@pytest.mark.parametrize(
    "told",
    [b"", b"{}", b"{\n", b'{"structs":["a"],"shapes":{},"elements":[]}\nxx', b'{"structs":3,"shapes":{}}\n'],
)
def test_a_schema_that_lies_about_its_leaves_is_refused(told):
    outer = pa.schema([("a", pa.struct([("x", pa.int8())])), ("v", pa.list_(pa.float32()))])
    stored = Leaves.of(outer, Recipe(frozenset(["a"]), {"v": (3,)})).schema
    with pytest.raises(CorruptArchive, match="nested columns"):
        Leaves.read(stored.with_metadata({KEY: told}))
    other = json.dumps(Recipe(frozenset(["a"]), {"v": (4,)}).to_json()).encode() + b"\n" + outer.serialize().to_pybytes()
    with pytest.raises(CorruptArchive, match="not those it has the leaves of"):
        Leaves.read(stored.with_metadata({KEY: other}))


@pytest.mark.parametrize("elements", [frozenset(), frozenset(["v"])])
def test_a_row_in_both_leaves_of_a_list_is_refused(elements):
    outer = pa.schema([("v", pa.list_(pa.int8()))])
    leaves = Leaves.of(outer, Recipe(frozenset(), {"v": (2,)}, elements))
    flat = leaves.split(pa.record_batch([pa.array([[1, 2], [3]], pa.list_(pa.int8()))], schema=outer))
    both = pa.table([*flat.columns[:-1], pa.array([[7], [3]], pa.list_(pa.int8()))], schema=leaves.schema)
    with pytest.raises(CorruptArchive, match="of its length and of another"):
        leaves.join(both)


def events(n: int, seed: int) -> pa.Table:
    """Nested events: members that tell each other across structs, embeddings as lists, a few of another length."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 40, n)
    base = rng.normal(size=(40, 8))
    vectors = [list(map(float, v)) for v in np.round(base[user] + rng.normal(size=(n, 8)) / 50, 5)]
    for k in range(5, n, 61):
        vectors[k] = vectors[k][:3]
    many = np.round(rng.normal(size=(n, 3)) @ rng.normal(size=(3, 40)), 2)
    return pa.table({
        "embedding": pa.array([list(map(float, row)) for row in many]),
        "user": pa.array([
            None if u == 7 else {"id": int(u), "home": {"lat": 40 + k % 97 / 7, "lon": u / 8 - 3}} for k, u in enumerate(user)
        ]),
        "what": pa.array([{"kind": f"k{u % 5}", "cost": float(u % 5) + 0.5} for u in user]),
        "vector": pa.array(vectors, pa.list_(pa.float64())),
        "grid": pa.array([[[int(u), 1, 2], [3, 4, int(k % 3)]] for k, u in enumerate(user)], pa.list_(pa.list_(pa.uint8()))),
        "tags": pa.array([["a", "b"][: k % 3] for k in range(n)]),
    })  # fmt: skip


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_nested_events_are_learned_bounded_read_and_added_to(tmp_path):
    source, archive, report = tmp_path / "in", tmp_path / "archive", tmp_path / "report.json"
    source.mkdir()
    pq.write_table(events(3000, 1), source / "a.parquet")
    asked = ["--tolerance", "vector=0.01", "--tolerance", "user.home.lat=0.1", "--time-budget", 5, "--preview", "off"]
    assert run("run", source, archive, *asked, "--json", report) == 0
    told = json.loads(report.read_text())
    assert [column["name"] for column in told["columns"]] == events(1, 1).column_names
    columns = {column["name"]: column for column in told["leaves"]}
    for item in told["columns"]:
        assert item["bytes"] == sum(line["bytes"] for name, line in columns.items() if name.partition(".")[0] == item["name"])
    assert not any(column["violations"] + column["mismatches"] for column in columns.values())
    cheap = [name for name in ("user.id", "user.home.lon", "what.kind", "what.cost") if columns[name]["bytes"] < 200]
    assert len(cheap) == 3, "members tell each other, of all structs"
    assert columns["vector"]["kind"] == "numeric" and 0 < columns["vector"]["max_abs_error"] <= 0.01
    assert columns["embedding"]["kind"] == "tensor" and columns["embedding"]["coding"] == "learned"
    assert columns["user.home.lat"]["tolerance"] == 0.1 and columns["grid"]["kind"] == "tensor"

    pq.write_table(events(500, 2), source / "b.parquet")
    assert run("run", source, archive, *asked) == 0
    assert run("verify", archive, "--source", source) == 0
    both, opened = pq.read_table(source), open_archive(str(archive))
    assert opened.schema.equals(both.schema, check_metadata=True)
    found = opened.to_table()
    for name in ("what", "grid", "tags"):
        assert found[name].combine_chunks().equals(both[name].combine_chunks()), name
    lengths = [len(v) for v in both["vector"].to_pylist()]
    assert [len(v) for v in found["vector"].to_pylist()] == lengths
    assert max(abs(a - b) for x, y in zip(found["vector"].to_pylist(), both["vector"].to_pylist(), strict=True)
               for a, b in zip(x, y, strict=True)) <= 0.01  # fmt: skip
    assert found["user"].null_count == both["user"].null_count > 0
    part = opened.to_table(columns=["what.kind", "vector"], rows=(2990, 3010))
    assert part.column_names == ["what.kind", "vector"] and part["vector"].type == both["vector"].type
    assert part["what.kind"].to_pylist() == [row["kind"] for row in both["what"].to_pylist()[2990:3010]]
    out = tmp_path / "out.parquet"
    assert run("read", archive, out, "--columns", "user,what.cost", "--rows", "0:5") == 0
    assert pq.read_table(out).column_names == ["user", "what.cost"]
    assert run("sample", archive, out, "--rows", 50) == 0
    assert pq.read_table(out).schema.equals(both.schema)


def test_an_archive_made_before_there_were_leaves_goes_on_as_it_is(tmp_path, monkeypatch):
    source, archive, report = tmp_path / "in", tmp_path / "archive", tmp_path / "report.json"
    source.mkdir()
    pq.write_table(events(400, 1), source / "a.parquet")
    with monkeypatch.context() as before:
        before.setattr("storage.sources.find_recipe", lambda *_: WHOLE)
        assert run("run", source, archive, "--time-budget", 2, "--preview", "off") == 0
    pq.write_table(events(100, 2), source / "b.parquet")
    assert run("run", source, archive, "--time-budget", 2, "--preview", "off", "--json", report) == 0
    assert [column["name"] for column in json.loads(report.read_text())["columns"]] == events(1, 1).column_names
    assert open_archive(str(archive)).to_table().equals(pq.read_table(source))
    assert run("verify", archive, "--source", source) == 0


def test_raw_sources_come_as_they_are_unless_asked_to_be_divided(tmp_path):
    pq.write_table(events(50, 1), tmp_path / "a.parquet")
    with open_source(str(tmp_path)) as whole, open_source(str(tmp_path), recipe=None) as divided:
        assert whole.schema.names == events(1, 1).column_names and whole.table().equals(pq.read_table(tmp_path))
        assert divided.leaves.join(divided.table()).equals(whole.table())
        assert divided.leaves.recipe.shapes == {"embedding": (40,), "vector": (8,), "grid": (2, 3)}
        assert divided.leaves.recipe.elements == {"vector"}


def features(n: int, width: int) -> np.ndarray:
    """Clocks, categories, amounts and constants side by side, rows in no order."""
    rng = np.random.default_rng(width)
    kinds = (
        lambda: rng.integers(0, 86_400, n),
        lambda: rng.integers(0, 3, n) * 1000,
        lambda: np.round(rng.gamma(2, 40, n), 2),
        lambda: np.full(n, 7),
    )
    return np.stack([kinds[k % 4]() for k in range(width)], axis=1).astype(np.float64)


@pytest.mark.parametrize("as_lists", [False, True])
def test_a_matrix_of_features_is_a_column_for_each(as_lists):
    n, width = 2000, 300

    def divided_of(cells: np.ndarray, bounded: tuple[str, ...] = ()) -> set[str]:
        array = pa.FixedSizeListArray.from_arrays(pa.array(cells.ravel()), cells.shape[1])
        array = pa.array([*array.to_pylist(), [1.0], None], pa.list_(pa.float64())) if as_lists else array
        table = pa.table({"x": array})
        return set(find_recipe(table.schema, lambda: table.to_batches()[0], bounded).elements)

    assert divided_of(features(n, width)) == {"x"}
    assert divided_of(features(n, width), ("*",)) == divided_of(features(n, width), ("x",)) == set(), "a bound may be better kept together"
    assert divided_of(features(900, width)) == set(), "a column's model is too much for few rows"
    assert divided_of(np.random.default_rng(1).normal(size=(n, width)).astype(np.float32).astype(np.float64)) == set(), "all of one kind"
    assert divided_of(features(1100, 2049)) == set()


def test_of_too_many_columns_the_longest_vectors_stay_whole():
    cells = {"long": features(1100, 2000), "wide": features(1100, 1500), "more": features(1100, 1000), "place": features(1100, 3)}
    arrays = {name: pa.FixedSizeListArray.from_arrays(pa.array(c.ravel()), c.shape[1]) for name, c in cells.items()}
    table = pa.table(arrays)
    assert find_recipe(table.schema, lambda: table.to_batches()[0]).elements == {"place", "more", "wide"}


def test_vectors_in_many_small_files_are_looked_at_together(tmp_path):
    cells = features(1500, 60)
    for k in range(5):
        np.save(tmp_path / f"{k}.npy", cells[300 * k : 300 * (k + 1)])
    with open_source(str(tmp_path), recipe=None) as source:
        assert source.leaves.recipe.elements == {"value"}
        assert source.leaves.join(source.table()).num_rows == 1500


def test_wide_matrices_are_read_back_as_vectors(tmp_path):
    cells = features(1500, 60)
    np.save(tmp_path / "m.npy", cells)
    assert run("run", tmp_path / "m.npy", tmp_path / "a", "--time-budget", 3, "--preview", "off") == 0
    archive = open_archive(str(tmp_path / "a"))
    assert archive.leaves.schema.names == ["value:valid", *(f"value[{k}]" for k in range(60))]
    back = archive.to_table().column("value").combine_chunks()
    assert np.array_equal(back.to_numpy_ndarray(), cells)


def joined(kind: pa.DataType, path: str, told: dict[str, Any], above: bool, item: pa.Field, leaves: dict[str, list[Any]]) -> list[Any]:
    """FORMAT.md, "Leaves": the rows of what is at a path, of the rows of leaves. above : whether a struct around may be null."""
    nullable = above or item.nullable
    if path in told["structs"]:
        parts = [joined(member.type, f"{path}.{member.name}", told, nullable, member, leaves) for member in kind]
        rows = [dict(zip([member.name for member in kind], row, strict=True)) for row in zip(*parts, strict=True)]
        return [row if there else None for row, there in zip(rows, leaves[f"{path}:valid"], strict=True)] if nullable else rows
    if path not in told["shapes"] and path not in told["elements"]:
        return leaves[path]
    if path in told["elements"]:
        return elements(kind, path, told["shapes"].get(path), leaves)
    shape = told["shapes"][path]
    rows = []
    for vector, other in zip(leaves[path], leaves[f"{path}:others"], strict=True):
        assert vector is None or other is None
        for length in shape[:0:-1] if vector is not None else ():
            vector = [vector[k : k + length] for k in range(0, len(vector), length)]
        rows.append(other if vector is None else vector)
    return rows


def elements(kind: pa.DataType, path: str, shape: list[int] | None, leaves: dict[str, list[Any]]) -> list[Any]:
    """The same, of a vector whose elements are leaves."""
    n = kind.list_size if shape is None else shape[0]
    rows = [list(row) for row in zip(*(leaves[f"{path}[{k}]"] for k in range(n)), strict=True)]
    valid = leaves.get(f"{path}:valid", [True] * len(rows))
    others = leaves[f"{path}:others"] if shape is not None else [None] * len(rows)
    return [row if there else other for row, there, other in zip(rows, valid, others, strict=True)]


def test_leaves_joined_by_the_format_document_are_the_same_rows():
    folder = Path(__file__).parent / "golden" / "1.9" / "leaves"
    with pa.ipc.open_file(folder / "expected.arrow") as reader:
        wanted = reader.read_all()
    archive = open_archive(str(folder / "archive"))
    stored = pa.Table.from_batches(list(archive.leaf_batches()))
    about, _, message = archive.manifest.schema.metadata[b"latentpack.leaves"].partition(b"\n")
    outer, told = pa.ipc.read_schema(pa.BufferReader(message)), json.loads(about)
    assert outer.equals(wanted.schema, check_metadata=True)
    assert set(told) == {"structs", "shapes", "elements"} and all(told.values())
    leaves = {name: stored[name].to_pylist() for name in stored.column_names}
    for item in outer:
        found, rows = joined(item.type, item.name, told, False, item, leaves), wanted[item.name].to_pylist()
        assert str(found) == str(rows), item.name


def nested(kind: pa.DataType, rows: list[Any], nullable: bool = True) -> pa.Table:
    return pa.table([pa.array(rows, kind)], schema=pa.schema([pa.field("s", kind, nullable)]))


def test_a_struct_that_may_be_null_of_members_that_may_not_is_read_and_drawn(tmp_path):
    inner = pa.struct([pa.field("d", pa.decimal128(9, 2), nullable=False), pa.field("v", pa.list_(pa.int8()), nullable=False)])
    members = [("a", pa.int64()), ("t", pa.string()), ("i", inner)]
    kind = pa.struct([pa.field(name, member, nullable=False) for name, member in members])
    row = {"a": 7, "t": "x", "i": {"d": 3, "v": [1, 2]}}
    for name, rows in (("some", [row, None, row] * 40), ("none", [None] * 30)):
        place = tmp_path / name
        pq.write_table(nested(kind, rows), tmp_path / f"{name}.parquet")
        assert run("run", tmp_path / f"{name}.parquet", place, "--time-budget", 1) == 0
        for out in ("o.parquet", "o.arrow"):
            assert run("read", place, tmp_path / out) == 0
        back = pq.read_table(tmp_path / "o.parquet")
        back.validate(full=True)
        assert back.to_pylist() == [{"s": one} for one in pq.read_table(tmp_path / f"{name}.parquet")["s"].to_pylist()]
        assert run("sample", place, tmp_path / "drawn.parquet", "--rows", 50) == 0


def test_rows_are_drawn_of_lists_of_one_length_and_of_others(tmp_path):
    rng = np.random.default_rng(5)
    rows = [list(map(float, v[: 40 if k % 9 else 3])) for k, v in enumerate(np.round(rng.normal(size=(300, 40)), 2))]
    short = [[1.5, 2.0] if k % 7 else [float(k % 3)] for k in range(300)]
    pairs = pa.list_(pa.field("x", pa.float64(), nullable=False), 2)
    fixed = pa.array([None if k % 11 == 3 else [0.5, float(k % 4)] for k in range(300)], pairs)
    table = pa.table({"many": rows, "few": short, "fixed": fixed})
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert run("run", tmp_path / "t.arrow", tmp_path / "a", "--time-budget", 1, "--json", tmp_path / "r.json") == 0
    assert open_archive(str(tmp_path / "a")).to_table().equals(table)
    for seed in range(3):
        assert run("sample", tmp_path / "a", tmp_path / "o.parquet", "--rows", 200, "--seed", seed) == 0
    told = {column["name"]: column for column in json.loads((tmp_path / "r.json").read_text())["columns"]}
    assert told["fixed"]["n_null"] == fixed.null_count and told["few"]["n_null"] >= 0


REQUIRED, OPTIONAL = pa.field("x", pa.float64(), nullable=False), pa.field("x", pa.float64())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nested(pa.struct([REQUIRED]), [{"x": 1.0}, None]), nested(pa.struct([OPTIONAL]), [{"x": None}])),
        (nested(pa.list_(REQUIRED, 3), [[1.0, 2.0, 3.0]]), nested(pa.list_(OPTIONAL, 3), [[None, 2.0, 3.0]])),
        (nested(pa.struct([OPTIONAL]), [{"x": 1.0}]), pa.table({"s:valid": [True], "s.x": [1.0]}).cast(
            pa.schema([pa.field("s:valid", pa.bool_(), nullable=False), OPTIONAL.with_name("s.x")]))),
    ],
)  # fmt: skip
def test_another_schema_of_the_same_leaves_is_refused(first, second, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for table in (first, second):
        with pa.ipc.new_file(str(source / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
        assert run("run", source, tmp_path / "a", "--time-budget", 1) == (0 if table is first else 3)
    assert open_archive(str(tmp_path / "a")).to_table().equals(first)


@pytest.mark.parametrize(
    ("outer", "recipe"),
    [
        (pa.schema([("v", pa.list_(pa.float32(), 2**31 - 1))]), Recipe(elements=frozenset(["v"]))),
        (pa.schema([("v", pa.list_(pa.float32()))]), Recipe(shapes={"v": (10**9,)}, elements=frozenset(["v"]))),
        (pa.schema([(f"v{k}", pa.list_(pa.int8(), 256)) for k in range(3000)]), Recipe(elements=frozenset(f"v{k}" for k in range(3000)))),
        (pa.schema([("v", pa.list_(pa.int8()))]), Recipe(shapes={"v": (1 << 40,)})),
    ],
)
def test_leaves_that_stand_for_very_many_are_refused_before_they_are_made(outer, recipe):
    told = json.dumps(recipe.to_json()).encode() + b"\n" + outer.serialize().to_pybytes()
    with pytest.raises(CorruptArchive, match="nested columns"):
        Leaves.read(pa.schema([("a", pa.int8())], metadata={KEY: told}))


def test_names_that_clash_are_left_whole_by_the_writer_and_refused_of_others():
    chain = [("a" + ".m" * k, pa.struct([("m", pa.int8())])) for k in range(300)]
    schema = pa.schema([*chain, ("a" + ".m" * 300, pa.int8())])
    leaves = Leaves.of(schema, find_recipe(schema, lambda: None))
    assert len(set(leaves.schema.names)) == len(leaves.schema) and Leaves.read(leaves.schema).outer.equals(schema)
    outer = pa.schema([("s", pa.struct([pa.field("x", pa.int8())])), ("s.x", pa.int8())])
    with pytest.raises(CorruptArchive, match="nested columns"):
        Leaves.read(Leaves.of(outer, Recipe(frozenset(["s"]))).schema)


def test_what_is_in_structs_is_read_by_its_path(tmp_path):
    table = events(60, 3)
    pq.write_table(table, tmp_path / "t.parquet")
    assert run("run", tmp_path / "t.parquet", tmp_path / "a", "--time-budget", 1) == 0
    archive, rows = open_archive(str(tmp_path / "a")), table["user"].to_pylist()
    part = archive.to_table(["user.home", "user.home.lat", "user"])
    assert part["user.home"].to_pylist() == [None if row is None else row["home"] for row in rows]
    assert part["user"].to_pylist() == rows and part.column_names == ["user.home", "user.home.lat", "user"]
    assert run("read", tmp_path / "a", tmp_path / "o.parquet", "--columns", "user.home") == 0


def test_a_run_with_nothing_to_do_reads_no_rows(tmp_path, monkeypatch):
    pq.write_table(events(60, 3), tmp_path / "t.parquet")
    assert run("run", tmp_path / "t.parquet", tmp_path / "a", "--time-budget", 1) == 0
    monkeypatch.setattr("storage.sources.Source._rows", lambda *_: pytest.fail("rows are read"))
    assert run("run", tmp_path / "t.parquet", tmp_path / "a", "--time-budget", 1) == 0


def test_tolerances_of_structs_are_for_the_floats_in_them(capsys):
    leaves = Leaves.of(events(1, 1).schema, find_recipe(events(1, 1).schema, lambda: events(90, 1).to_batches()[0]))

    def asked(*specs: str) -> dict[str, str]:
        return {name: str(one) for name, one in parse_tolerances(specs, leaves.schema, leaves.groups).items()}

    assert asked("user=0.5") == {"user.home.lat": "0.5", "user.home.lon": "0.5"}
    assert asked("user.home=0.1", "user=0.5", "user.home.lon=2") == asked("user=0.5", "user.home.lon=2", "user.home=0.1")
    assert asked("vector=1%") == {f"vector[{k}]": "1%" for k in range(8)}
    assert asked("user.home=lossless", "*=1%")["user.home.lat"] == "lossless"
    with pytest.raises(UsageError, match=r"there is no column 'usr'; columns are .*user"):
        asked("usr=1")
    none = Leaves.of(pa.schema([("s", pa.struct([("k", pa.int8())]))]), Recipe(frozenset(["s"])))
    assert parse_tolerances(["s=lossless"], none.schema, none.groups) == {}
    with pytest.raises(UsageError, match="has no floats in it"):
        parse_tolerances(["s=1"], none.schema, none.groups)


def test_one_line_of_several_leaves_pairs_a_tolerance_with_its_own_error():
    outer = pa.schema([("s", pa.struct([("a", pa.float64()), ("b", pa.float64()), ("c", pa.int8())])), ("d", pa.int8())])
    leaves = Leaves.of(outer, Recipe(frozenset(["s"])))
    lines = [
        ColumnReport(name="s:valid", coding="learned", bytes=1),
        ColumnReport(name="s.a", coding="latent", bytes=5, tolerance=0.5, tolerance_kind="rmse", rmse=0.4, max_abs_error=9.0, n_null=3),
        ColumnReport(
            name="s.b", coding="learned", bytes=70, tolerance=2.0, tolerance_kind="absolute", max_abs_error=0.2, violations=1, n_null=4
        ),
        ColumnReport(name="s.c", coding="pco", bytes=7, n_null=5),
        ColumnReport(name="d", coding="pco", bytes=2),
    ]
    told, alone = by_column(lines, leaves)
    assert (told.name, told.bytes, told.coding, told.violations, told.n_null) == ("s", 83, "learned", 1, 3) and alone is lines[-1]
    assert (told.tolerance, told.tolerance_kind, told.rmse) == (0.5, "rmse", 0.4)
    assert [line.name for line in by_leaf(lines, leaves)] == ["s", "s.a", "s.b", "s.c", "d"]
