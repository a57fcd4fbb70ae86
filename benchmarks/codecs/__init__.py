"""The codecs latentpack is compared with. Each has one shape: a table and its bounds in, bytes out; those bytes in, the table out."""
