"""The points of nginx's ketama ring, made and sorted; the twin of points.py, with a crc32 of its own and libc's qsort.

A million calls of zlib for four bytes each would cost a second, in every worker, whenever an endpoint comes or goes.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort

from array import array
from zlib import crc32

__all__ = ["build_points", "ketama_points"]

cdef uint32_t[256] STEPS  # of the reversed polynomial, eight bits at once


cdef void make_steps() noexcept:
    cdef uint32_t value
    cdef int i, bit
    for i in range(256):
        value = i
        for bit in range(8):
            value = (value >> 1) ^ (0xEDB88320u if value & 1 else 0)
        STEPS[i] = value


make_steps()


cdef inline uint32_t after(uint32_t seed, uint32_t point) noexcept nogil:
    """crc32(point.to_bytes(4, "little"), seed)"""
    cdef uint32_t value = ~seed
    cdef int i
    for i in range(4):
        value = (value >> 8) ^ STEPS[(value ^ point) & 0xFF]
        point >>= 8
    return ~value


cdef uint32_t seed_of(str name) except? 0:
    if name.startswith("unix:"):
        host, port = name[5:], ""
    else:
        host, _, port = name.rpartition(":")
    return crc32(f"{host}\0{port}".encode())


cdef int by_value(const void *one, const void *other) noexcept nogil:
    cdef uint64_t a = (<const uint64_t *> one)[0], b = (<const uint64_t *> other)[0]
    return (a > b) - (a < b)


cpdef list ketama_points(str name, Py_ssize_t count):
    cdef uint32_t seed = seed_of(name), point = 0
    cdef list points = []
    cdef Py_ssize_t i
    for i in range(count):
        point = after(seed, point)
        points.append(point)
    return points


cpdef object build_points(list names, list counts):
    cdef Py_ssize_t total = sum(counts), number, i, count, at = 0, kept = 0
    made = array("Q", bytes(8 * total))
    cdef uint64_t[::1] points = made
    cdef uint32_t seed, point
    for number in range(len(names)):
        seed = seed_of(names[number])
        count = counts[number]
        point = 0
        for i in range(count):
            point = after(seed, point)
            points[at] = (<uint64_t> point << 32) | <uint64_t> number
            at += 1
    qsort(&points[0], total, sizeof(uint64_t), by_value)
    for at in range(total):
        if kept == 0 or points[at] >> 32 != points[kept - 1] >> 32:
            points[kept] = points[at]
            kept += 1
    return made[:kept]
