"""The codecs latentpack is compared with, each measured in a process of its own so that peak memory is its own.

    python benchmarks/peers.py PEER SOURCE BOUND [BUDGET]      prints one JSON object

Every peer gets the same Arrow table and the same bound, and gives bytes from which alone the table is decoded: dictionaries,
validity, models, schema are all in them. The worst error is measured on what came back.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.children import tell
from benchmarks.codecs import autoencoder, bayes_net, floats, klt, openzl_columns
from benchmarks.codecs.conventional import (
    any_coding,
    conventional_decode,
    conventional_encoder,
    parquet_decode,
    parquet_encoder,
)
from benchmarks.codecs.dataset import load, n_cells, tolerances
from benchmarks.codecs.shape import BUDGET_S, LOSSLESS, Effort, Peer
from vae_core import quality
from vae_core.tolerance import Tolerance

__all__ = ["ALL", "BUDGET_S", "LEARNED", "LOSSLESS", "OPTIONAL", "PEERS", "Peer", "compare", "measure"]

PEERS: tuple[Peer, ...] = (
    Peer("parquet-zstd-3", "Parquet zstd-3", "the raw table", parquet_encoder(3), parquet_decode, uses_bound=False),
    Peer("parquet-zstd-19", "Parquet zstd-19", "the raw table", parquet_encoder(19), parquet_decode, uses_bound=False),
    Peer(
        "quantise+parquet-zstd-19",
        "quantise + Parquet zstd-19",
        "best encoding per column",
        conventional_encoder(lambda coding: coding.startswith(("parquet", "codes"))),
        conventional_decode,
    ),
    Peer(
        "quantise+pcodec",
        "quantise + pcodec",
        "level 12; text by Parquet",
        conventional_encoder(lambda coding: coding.startswith("pco")),
        conventional_decode,
    ),
    Peer(
        "best-conventional",
        "best of these per column",
        "smallest of all of these per column",
        conventional_encoder(any_coding),
        conventional_decode,
    ),
)
OPTIONAL: tuple[Peer, ...] = (
    Peer(
        "quantise+openzl", "quantise + OpenZL", "best of four graphs per column", openzl_columns.encode, openzl_columns.decode,
        needs="openzl",
    ),
    Peer(
        "sz3", "SZ3", "float columns; the rest conventional", floats.encoder(floats.sz3_compress, floats.sz3_expand),
        floats.decoder(floats.sz3_expand), needs="pysz", has_lossless=False,
    ),
    Peer(
        "zfp", "zfp", "float columns; the rest conventional", floats.encoder(floats.zfp_compress, floats.zfp_expand),
        floats.decoder(floats.zfp_expand), needs="zfpy",
    ),
)  # fmt: skip
LEARNED: tuple[Peer, ...] = (
    Peer("klt", "KLT + residual", "numbers; the rest conventional", klt.encode, klt.decode),
    Peer("bayes-net", "Bayes net", "two parents, adaptive counts", bayes_net.encode, bayes_net.decode),
    Peer(
        "autoencoder", "autoencoder + residual", "latents in bytes, by row", autoencoder.encoder(variational=False), autoencoder.decode,
        needs="torch", trained=True,
    ),
    Peer(
        "vae", "VAE + residual", "DeepSqueeze's design: latents by row, rounding trained for", autoencoder.encoder(variational=True),
        autoencoder.decode, needs="torch", trained=True,
    ),
)  # fmt: skip
ALL = (*PEERS, *OPTIONAL, *LEARNED)


def measure(peer: Peer, source: str, bound: str, budget_s: float = BUDGET_S) -> dict[str, Any]:
    """Encode and decode a source once; speeds in MB/s of Arrow bytes, the worst error as a share of the tolerance."""
    table = load(source)
    bounds = tolerances(table, bound)
    effort = Effort(budget_s)
    began = time.perf_counter()
    payload = peer.encode(table, bounds, effort)
    encoded = time.perf_counter()
    decoded = peer.decode(payload)
    finished = time.perf_counter()
    share, violations = compare(table, decoded, bounds if peer.uses_bound else {})
    return {
        "rows": table.num_rows,
        "columns": table.num_columns,
        "arrow_bytes": table.nbytes,
        "bytes": len(payload),
        **speeds(table.nbytes, n_cells(table), encoded - began - effort.train_s, finished - encoded),
        "train_s": effort.train_s,
        "worst_error_share": share,
        "violations": violations,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def speeds(arrow_bytes: int, cells: int, encode_s: float, decode_s: float) -> dict[str, float]:
    """Both directions in MB/s of Arrow bytes and in nanoseconds a value."""
    encode_s, decode_s = max(encode_s, 1e-9), max(decode_s, 1e-9)
    return {
        "encode_mb_s": arrow_bytes / 1e6 / encode_s,
        "decode_mb_s": arrow_bytes / 1e6 / decode_s,
        "encode_ns_cell": 1e9 * encode_s / max(1, cells),
        "decode_ns_cell": 1e9 * decode_s / max(1, cells),
    }


def compare(raw: pa.Table, decoded: pa.Table, bounds: Mapping[str, Any]) -> tuple[float, int]:
    """(worst error over tolerance, values outside their promise or unequal)."""
    promised = {name: bounds.get(name, Tolerance("lossless", 0.0)) for name in raw.column_names}
    worst, violations = 0.0, 0
    for column in quality.compare(raw, decoded, promised):
        bound = promised[column.name]
        violations += column.violations + column.mismatches
        if bound.kind == "absolute" and bound.value > 0:
            worst = max(worst, column.max_abs_error / bound.value)
    return worst, violations


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measure the peer that is named."""
    name, source, bound, *budget = argv
    peer = next(p for p in ALL if p.name == name)
    return measure(peer, source, bound, *map(float, budget))


if __name__ == "__main__":
    tell(main(sys.argv[1:]))
