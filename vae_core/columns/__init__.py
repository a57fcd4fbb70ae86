"""Columns: Arrow columns as int64 codes and back, exactly or within a tolerance."""

from vae_core.columns.choose import plan_columns, without_levels
from vae_core.columns.codes import (
    STATE_MISFIT,
    STATE_NAN,
    STATE_NEG_INF,
    STATE_NEG_ZERO,
    STATE_NULL,
    STATE_POS_INF,
    STATE_VALUE,
    Codes,
)
from vae_core.columns.joining import one_array
from vae_core.columns.plan import ColumnPlan
from vae_core.columns.profile import ColumnProfile, TableProfile
from vae_core.columns.recode import decode_column, encode_column
from vae_core.columns.side import pack_side, unpack_side

__all__ = [
    "STATE_MISFIT",
    "STATE_NAN",
    "STATE_NEG_INF",
    "STATE_NEG_ZERO",
    "STATE_NULL",
    "STATE_POS_INF",
    "STATE_VALUE",
    "Codes",
    "ColumnPlan",
    "ColumnProfile",
    "TableProfile",
    "decode_column",
    "encode_column",
    "one_array",
    "pack_side",
    "plan_columns",
    "unpack_side",
    "without_levels",
]
