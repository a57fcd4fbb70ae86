"""Coders: how the codes of a column become bytes. `conventional` is the floor under every learned one."""
