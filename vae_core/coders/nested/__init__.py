"""Lists of many lengths, maps and structs, taken apart into columns of what they hold (FORMAT.md, "Nested").

numbers  integers, floats and flags: the columns that are left in the end
cells    arrays of any type, level by level
members  members of structs: which of them tell what others are
payload  all of it as the payload of a block
elements vectors, an element at a time
"""

from vae_core.coders.nested.cells import holds as holds
from vae_core.coders.nested.payload import pack as pack
from vae_core.coders.nested.payload import unpack as unpack

__all__ = ["holds", "pack", "unpack"]
