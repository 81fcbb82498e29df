"""CRC-32C (Castagnoli), which zlib does not have: the checksum that a PROXY header may carry.

Bit by bit into a table of 256, reflected, as RFC 3720 appendix B.4 tests it. A header is rare and short.
"""

from __future__ import annotations

__all__ = ["crc32c"]

POLYNOMIAL = 0x82F63B78


def _row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ POLYNOMIAL if byte & 1 else byte >> 1
    return byte


TABLE = tuple(map(_row, range(256)))


def crc32c(data: bytes) -> int:
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = (remainder >> 8) ^ TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF
