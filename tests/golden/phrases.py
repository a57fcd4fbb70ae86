"""Write vae_core/phrases.zdict, the zstd dictionary of an archive's small documents: `python tests/golden/phrases.py`.

It was run once, for format 1.7, and is here to show where the dictionary is from: another one would be another format. The documents
are those of archives of made-up tables of many kinds, lossless and with tolerances.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from flows import cli  # noqa: E402
from storage import open_archive  # noqa: E402
from storage.document import decompress, to_json  # noqa: E402

DICTIONARY = ROOT / "vae_core" / "phrases.zdict"
DICTIONARY_BYTES = 16_384
SECONDS = "4"
TOLERANCES = ((), ("*=1%",), ("*=0.1%",), ("*=0.05",), ("*=rmse:2%",))


def tables() -> Iterator[tuple[str, pa.Table]]:
    """Made-up datasets: sensors, events, measurements, prices, catalogues, pictures, vectors."""
    rng = np.random.default_rng(5)
    n = 6000
    t = np.arange(n)
    walk = np.cumsum(rng.normal(size=(n, 12)), axis=0)
    when = pa.array(1_600_000_000_000 + 60_000 * t, pa.timestamp("ms"))
    yield (
        "sensors",
        pa.table(
            {
                "timestamp": when,
                "temperature": np.round(20 + walk[:, 0] / 9, 2),
                "humidity": np.round(50 + walk[:, 1] / 5, 1),
                "pressure": np.round(1013 + walk[:, 2] / 9, 1),
                "wind_speed": np.round(np.abs(walk[:, 3]) / 9, 1),
                "status": (t // 500 % 3).astype("i4"),
            }
        ),
    )
    yield (
        "power",
        pa.table(
            {f"load_{k}": np.round(900 + 40 * np.sin(t / 40 + k) + walk[:, k], 3) for k in range(8)}
            | {"day": t // 144, "hour": t // 6 % 24}
        ),
    )
    price = np.round(5 + 40 * rng.gamma(2, 1, n), 2)
    amount = rng.integers(1, 9, n)
    yield (
        "orders",
        pa.table(
            {
                "order_id": 100_000 + 3 * t,
                "customer_id": rng.integers(0, 700, n),
                "product": pa.array([f"item-{k}" for k in rng.zipf(1.6, n) % 90]).dictionary_encode(),
                "quantity": amount.astype("i4"),
                "unit_price": price,
                "total": np.round(price * amount, 2),
                "paid": rng.random(n) < 0.9,
                "created_at": pa.array(1_650_000_000_000_000 + np.cumsum(rng.integers(1, 9_000_000, n)), pa.timestamp("us", tz="UTC")),
                "country": pa.array(np.array(["DE", "FR", "US", "GB", "NL"])[rng.integers(0, 5, n)]),
            }
        ),
    )
    kind = rng.integers(0, 6, n)
    size = rng.normal(size=n)
    yield (
        "catalogue",
        pa.table(
            {
                "class": pa.array(np.array(list("abcdef"))[kind]),
                "grade": pa.array(np.array(["low", "fair", "good", "best"])[(kind + rng.integers(0, 2, n)) % 4]),
                "width": np.round(5 + size + kind / 9, 2),
                "height": np.round(6 + size * 1.1, 2),
                "depth": np.round(3 + size / 2 + kind / 20, 2),
                "price": np.exp(5 + size + kind / 8).astype("i8"),
                "x": np.round(rng.normal(size=n), 3).astype("f4"),
                "label": kind.astype("u1"),
            }
        ),
    )
    yield (
        "cells",
        pa.table(
            {f"c{k}": (rng.random(n) < 0.02 * k).astype("i8") for k in range(9)}
            | {
                "elevation": (2000 + 9 * walk[:, 4]).astype("i8"),
                "slope": np.abs(3 * walk[:, 5]).astype("i8"),
                "aspect": (t * 7 % 360).astype("i8"),
            }
        ),
    )
    gone = rng.random(n) < 0.1
    yield (
        "people",
        pa.table(
            {
                "age": pa.array(rng.integers(17, 90, n).astype("i8"), mask=gone),
                "income": np.exp(rng.normal(10, 1, n)),
                "education": pa.array(np.array(["school", "college", "master", "none"])[rng.integers(0, 4, n)], mask=gone),
                "name": pa.array([f"user {k}" for k in rng.integers(0, n, n)]),
                "city": pa.array(np.array(["Berlin", "Paris", "Rome"])[rng.integers(0, 3, n)]),
                "since": pa.array(rng.integers(10_000, 19_000, n).astype("i4"), pa.date32()),
                "score": pa.array(rng.normal(size=n).astype("f4"), mask=gone),
            }
        ),
    )
    yield (
        "engine",
        pa.table(
            {"unit": t // 200, "cycle": t % 200}
            | {f"s{k}": np.round(500 + 3 * (t % 200) / 200 + rng.normal(size=n), 2 + k % 3) for k in range(14)}
        ),
    )
    yield (
        "track",
        pa.table(
            {
                "id": pa.array([f"T{k // 300:04d}" for k in t]),
                "lat": np.round(52 + walk[:, 6] / 1e4, 6),
                "lon": np.round(13 + walk[:, 7] / 1e4, 6),
                "speed": np.abs(walk[:, 8]).astype("f4"),
                "ts": 1_700_000_000 + 5 * t + rng.integers(0, 3, n),
            }
        ),
    )
    yield (
        "nested",
        pa.table(
            {
                "key": pa.array([f"{k:08x}" for k in rng.integers(0, 2**32, n)]),
                "tags": pa.array([["a", "b", "c"][: k % 4] for k in t]),
                "where": pa.array([{"x": int(k % 9), "y": float(k % 7)} for k in t]),
                "cost": pa.array([None if k % 50 == 0 else int(k % 1000) for k in t], pa.decimal128(9, 2)),
                "took": pa.array(rng.integers(0, 9**9, n), pa.duration("ns")),
            }
        ),
    )
    smooth = np.cumsum(np.cumsum(rng.integers(-3, 4, (60, 24, 24, 3)), 1), 2)
    yield (
        "pictures",
        pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray((smooth % 256).astype("u1")), "label": rng.integers(0, 9, 60)}),
    )
    mixed = (rng.normal(size=(3000, 6)) @ rng.normal(size=(6, 32)) + rng.normal(size=(3000, 32)) / 5).astype("f4")
    yield "vectors", pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(mixed.ravel()), 32), "id": np.arange(3000)})


def documents(place: Path) -> Iterator[bytes]:
    """The small documents of the archive of each table, under each tolerance."""
    for name, table in tables():
        source = place / "data" / f"{name}.parquet"
        source.parent.mkdir(exist_ok=True)
        pq.write_table(table, source)
        arrays = [source]
        if name == "pictures":
            arrays.append(source.with_suffix(".npy"))
            np.save(arrays[-1], table["image"].combine_chunks().to_numpy_ndarray())
        for path in arrays:
            for k, tolerance in enumerate(TOLERANCES):
                archive = place / f"{path.name}-{k}"
                words = [word for one in tolerance for word in ("--tolerance", one)]
                if cli.main(["run", str(path), str(archive), "--time-budget", SECONDS, "--quiet", *words]):
                    continue
                for kind in ("models/*/plan.json.zst", "shards/*/shard.json.zst", "schemas/*"):
                    for found in archive.glob(kind):
                        yield decompress(found.read_bytes(), str(found))
                manifest = open_archive(str(archive)).manifest
                yield to_json(
                    [[one.to_json() for one in manifest.sources], manifest.tolerances and [[v, 0, 1] for v in manifest.tolerances.values()]]
                )


def main() -> int:
    """Make the documents, train, write."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(documents(Path(folder)))
    trained = zstandard.train_dictionary(DICTIONARY_BYTES, found * 4, level=19).as_bytes()
    DICTIONARY.write_bytes(trained)
    print(f"{DICTIONARY.name}: {len(trained)} bytes from {len(found)} documents of {sum(map(len, found)):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
