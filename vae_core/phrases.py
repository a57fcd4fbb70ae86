"""The zstd dictionary of small documents: plans, records, chapters, schemas. They say much the same in every archive, and most of what
a small one takes beside its data is that. FORMAT.md, "JSON".
"""

from __future__ import annotations

from importlib.resources import files

import zstandard

from vae_core.errors import CorruptArchive

LEVEL = 19
PHRASES = zstandard.ZstdCompressionDict(files("vae_core").joinpath("phrases.zdict").read_bytes(), dict_type=zstandard.DICT_TYPE_FULLDICT)


def compressed(data: bytes, level: int = LEVEL) -> bytes:
    """A zstd frame by the dictionary, which it does not name, with its content size."""
    frame: bytes = zstandard.ZstdCompressor(level=level, dict_data=PHRASES, write_dict_id=False).compress(data)
    return frame


def decompressed(frame: bytes, most_bytes: int, where: str) -> bytes:
    """The inverse of `compressed`, and of frames without any dictionary. Raises CorruptArchive when the frame is damaged, has more behind
    it, or claims more than most_bytes, before any memory is taken for them."""
    try:
        n_bytes = zstandard.frame_content_size(frame)
        if not 0 <= n_bytes <= most_bytes:
            raise CorruptArchive(f"{where}: compressed data claims {n_bytes} bytes, at most {most_bytes} are read")
        data: bytes = zstandard.ZstdDecompressor(dict_data=PHRASES).decompress(frame, max_output_size=most_bytes, allow_extra_data=False)
        return data
    except zstandard.ZstdError as error:
        raise CorruptArchive(f"{where}: damaged compressed data ({error})") from None
