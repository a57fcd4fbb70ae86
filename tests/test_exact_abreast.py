"""Blocks read abreast are the blocks read one by one."""

from __future__ import annotations

import itertools
from contextlib import suppress

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from test_entropy_singly import vectors_that_take
from test_exact_cells import LAW, block, column_codes, earlier, fresh, numpy_alone

from vae_core.entropy.rans import Decoder, Encoder
from vae_core.errors import CorruptArchive
from vae_core.exact.abreast import read_columns
from vae_core.exact.cells import code_column


@LAW
@given(
    column_codes(), st.lists(st.tuples(st.sampled_from([0, 1, 33, 64, 700, 5000]), st.booleans()), min_size=1, max_size=4),
    st.integers(0, 2**32), st.booleans(), st.sampled_from([0.0, 30.0, 1e9]),
)  # fmt: skip
def test_a_column_of_several_blocks_read_abreast_is_what_each_block_holds(code, sizes, seed, garbled, microseconds):
    rng = np.random.default_rng(seed)
    known = [earlier(n, rng) for n, _ in sizes]
    cells = [block(code, n, rng, stateful) for n, stateful in sizes]
    streams = []
    for decoded, (values, state) in zip(known, cells, strict=True):
        encoder = Encoder()
        code_column(encoder, code, fresh(decoded), values, state)
        code_column(encoder, code, fresh(decoded), values, state)  # folds of lanes fall into the one or the other
        streams.append(bytearray(encoder.finish()))
    if garbled:
        place = rng.integers(6, len(streams[-1]))
        streams[-1][place] ^= 1 << int(rng.integers(0, 8))
    with numpy_alone():
        alone, broken = [], False
        for decoded, stream in zip(known, streams, strict=True):
            with suppress(CorruptArchive):
                decoder = Decoder(bytes(stream))
                alone.append([code_column(decoder, code, fresh(decoded), None, None) for _ in range(2)])
                decoder.finish()
                continue
            broken = True
    with numpy_alone(), vectors_that_take(microseconds):
        try:
            decoders = [Decoder(bytes(stream)) for stream in streams]
            found = [read_columns(decoders, code, [fresh(decoded) for decoded in known]) for _ in range(2)]
            for decoder in decoders:
                decoder.finish()
        except CorruptArchive:
            assert broken
            return
    assert not broken
    for one, wanted in zip(itertools.chain(*found), itertools.chain(*zip(*alone, strict=True)), strict=True):
        assert np.array_equal(one[0], wanted[0])
        assert (one[1] is None and wanted[1] is None) or np.array_equal(one[1], wanted[1])
