"""The exact layer: every cell coded under a distribution conditioned on what is already decoded (FORMAT.md, "Exact layer")."""
