"""HTTP/1 heads. head.pyx is the same, with a scanner in C for the plain cases in front."""

from __future__ import annotations

from lbd.wire.strict import find_head_end, parse_request, parse_response

__all__ = ["find_head_end", "parse_request", "parse_response"]
