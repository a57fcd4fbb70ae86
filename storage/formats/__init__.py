"""The file formats a source may be made of: each one says what a file holds and streams its rows, and nothing else."""

from storage.formats.contract import Format, Outline
from storage.formats.recognise import FORMATS, format_of

__all__ = ["FORMATS", "Format", "Outline", "format_of"]
