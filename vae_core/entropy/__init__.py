"""Integers to bytes and back: interleaved rANS under exact integer frequencies (FORMAT.md, "Entropy coding")."""
