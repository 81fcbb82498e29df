"""frame_bytes.py in C."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memcpy

__all__ = ["frame"]


cpdef bytes frame(int kind, int flags, int64_t stream, bytes payload):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 9 + size)
    cdef unsigned char *head = <unsigned char *>PyBytes_AS_STRING(made)
    head[0] = size >> 16
    head[1] = size >> 8 & 255
    head[2] = size & 255
    head[3] = kind
    head[4] = flags
    head[5] = stream >> 24
    head[6] = stream >> 16 & 255
    head[7] = stream >> 8 & 255
    head[8] = stream & 255
    memcpy(head + 9, PyBytes_AS_STRING(payload), size)
    return made
