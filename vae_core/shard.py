"""The public face of shards: encode a table, say what a read needs, decode a block, draw rows."""

from vae_core.decoding import blocks_at_once, decode_block, decode_blocks, needs
from vae_core.encoded import ColumnOutcome, EncodedBlock, EncodedShard, NativeColumn, Needs
from vae_core.encoding import beaten_by, encode_shard, measured
from vae_core.peers import Measure
from vae_core.sampling import nulls, sample_rows

__all__ = [
    "ColumnOutcome",
    "EncodedBlock",
    "EncodedShard",
    "Measure",
    "NativeColumn",
    "Needs",
    "beaten_by",
    "blocks_at_once",
    "decode_block",
    "decode_blocks",
    "encode_shard",
    "measured",
    "needs",
    "nulls",
    "sample_rows",
]
