"""The points of nginx's ketama ring, made and sorted; the twin of points.pyx, which makes ten thousand endpoints' in a tenth of the time.

ngx_http_upstream_hash_module.c: the first point of a server is the crc32 of HOST, a zero byte, PORT and four zero bytes; each further one
has the value of the point before it, little-endian, in place of the four. Of a unix socket's name HOST is the path, PORT is empty.
"""

from __future__ import annotations

from array import array
from zlib import crc32

__all__ = ["build_points", "ketama_points"]


def ketama_points(name: str, count: int) -> list[int]:
    """The first `count` points of an endpoint by that name, in the order in which they are made."""
    if name.startswith("unix:"):
        host, port = name[5:], ""
    else:
        host, _, port = name.rpartition(":")
    seed = crc32(f"{host}\0{port}".encode())
    points: list[int] = []
    point = 0
    for _ in range(count):
        point = crc32(point.to_bytes(4, "little"), seed)
        points.append(point)
    return points


def build_points(names: list[str], counts: list[int]) -> array[int]:
    """Sorted, 64 bits each: the point, and the number of the endpoint that owns it. Of equal points the first endpoint's stays."""
    made: list[int] = []
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        made += [point << 32 | number for point in ketama_points(name, count)]
    made.sort()
    points = array("Q")
    last = -1
    for point in made:
        if point >> 32 != last:
            points.append(point)
            last = point >> 32
    return points
