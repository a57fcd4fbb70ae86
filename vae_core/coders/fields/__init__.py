"""Texts as templates and fields: what is the same in many rows is told once, numbers inside texts are numbers (FORMAT.md, "Fields").

tokens     texts cut into numbers and stretches between them
templates  what is alike from row to row, and what differs
places     how what differs is written
columns    what differs, coded
payload    all of it as the payload of a block
"""

from vae_core.coders.fields.payload import pack as pack
from vae_core.coders.fields.payload import styled as styled
from vae_core.coders.fields.payload import unpack as unpack

__all__ = ["pack", "styled", "unpack"]
