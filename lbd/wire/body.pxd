cimport cython

from lbd.wire.message cimport Headers, ResponseHead
from lbd.wire.refusal cimport HeadLimits

cdef bytes HEX
cdef int SIZE, DATA, DATA_END, TRAILERS, LONGEST_SIZE, LONGEST_LINE, FREE, FREE_PER_BYTE

cpdef int response_framing(bytes method, ResponseHead head) except -1

cdef class BodyReader:
    cdef int _framing, _next
    cdef long long _length, _left
    cdef Py_ssize_t _searched
    cdef long long _excess
    cdef HeadLimits _limits
    cdef bytes _rest
    cdef public bint done
    cdef public bytes leftover
    cdef public long long remaining
    cdef public Headers trailers

    cpdef bytes feed(self, bytes data)
    cpdef feed_eof(self)
    cdef bytes _feed_length(self, bytes data)
    @cython.locals(pieces=list, size=Py_ssize_t, at=Py_ssize_t, end=Py_ssize_t)
    cdef bytes _feed_chunks(self, bytes data)
    @cython.locals(end=Py_ssize_t)
    cdef Py_ssize_t _line_end(self, bytes data, Py_ssize_t at) except -2
    @cython.locals(end=Py_ssize_t, last=Py_ssize_t, left="long long")
    cdef Py_ssize_t _take_size(self, bytes data, Py_ssize_t at) except -2
    @cython.locals(end=Py_ssize_t)
    cdef Py_ssize_t _take_size_line(self, bytes data, Py_ssize_t at) except -2
    @cython.locals(look=Py_ssize_t, end=Py_ssize_t)
    cdef Py_ssize_t _take_trailers(self, bytes data, Py_ssize_t at) except -2
