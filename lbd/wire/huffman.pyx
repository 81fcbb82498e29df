"""huffman.py in C: hpack's own machine, which eats half a byte a step. What it refuses is refused here: padding of more than seven bits
or of other bits than ones, and the end-of-string symbol (RFC 7541, 5.2)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

__all__ = ["decode_huffman"]

cdef enum:
    ENDS = 1  # a string may
    EMITS = 2
    FAILS = 4
    ON_STACK = 1024

cdef struct Step:
    unsigned char state, flags, symbol

cdef Step STEPS[256 * 16]


cdef int fill_steps() except -1:
    cdef int i
    if len(HUFFMAN_TABLE) != 256 * 16 or (HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL) != (ENDS, EMITS, FAILS):
        raise ImportError("hpack's table of Huffman's code is another than this was written for")
    for i, (state, flags, symbol) in enumerate(HUFFMAN_TABLE):
        STEPS[i].state = state
        STEPS[i].flags = flags
        STEPS[i].symbol = symbol
    return 0


fill_steps()


cpdef bytes decode_huffman(bytes coded):
    cdef const unsigned char *source = <const unsigned char *>PyBytes_AS_STRING(coded)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(coded)
    cdef unsigned char small[ON_STACK]
    cdef unsigned char *target = small
    cdef Step step
    cdef Py_ssize_t at, written = 0
    cdef int half
    if size == 0:
        return b""
    if size * 8 // 5 > ON_STACK:  # the shortest codes have five bits
        target = <unsigned char *>PyMem_Malloc(size * 8 // 5)
        if target == NULL:
            raise MemoryError
    step.state = step.flags = 0
    try:
        for at in range(size):
            for half in range(2):
                step = STEPS[step.state * 16 + (source[at] & 15 if half else source[at] >> 4)]
                if step.flags & FAILS:
                    raise HPACKDecodingError("Invalid Huffman string")
                if step.flags & EMITS:
                    target[written] = step.symbol
                    written += 1
        if not step.flags & ENDS:
            raise HPACKDecodingError("Incomplete Huffman string")
        return PyBytes_FromStringAndSize(<char *>target, written)
    finally:
        if target != small:
            PyMem_Free(target)
