"""Huffman's code of HPACK (RFC 7541, 5.2 and appendix B), read. huffman.pyx walks the same table in C."""

from __future__ import annotations

from hpack.huffman_table import decode_huffman

__all__ = ["decode_huffman"]
