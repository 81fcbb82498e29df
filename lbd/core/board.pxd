cimport cython
from libc.stdint cimport int64_t

cdef class Board

@cython.final
cdef class Segment:
    cdef object _head
    cdef int64_t[::1] _inflight, _connections, _waiting, _cells
    cdef object _tables
    cdef tuple _views
    cdef object _writer
    cdef dict _seen
    cdef int64_t _seen_at
    cdef Py_ssize_t _used, _tables_at
    cdef int _fd

    cpdef add(self, Py_ssize_t cell, int64_t amount=*)
    cpdef put(self, Py_ssize_t cell, int64_t value)
    cpdef int64_t value(self, Py_ssize_t cell) except? -1
    cpdef add_inflight(self, Py_ssize_t endpoint, int64_t delta)
    cpdef int64_t inflight(self, Py_ssize_t endpoint) except? -1
    cpdef add_connections(self, Py_ssize_t place, int64_t delta)
    cpdef add_waiting(self, Py_ssize_t place, int64_t delta)
    cpdef int64_t waiting(self, Py_ssize_t place) except? -1
    cpdef clear_tables(self)
    cpdef hold(self, int64_t downstreams)
    @cython.locals(cells=list, sums=list, cell=Py_ssize_t, width=Py_ssize_t, i=Py_ssize_t)
    cpdef totals(self, dict into)

@cython.final
cdef class Board:
    cdef readonly int fd
    cdef readonly Py_ssize_t slots, cells, endpoints, stride
    cdef readonly object words
    cdef int64_t[::1] _words
    cdef list _segments

    cpdef close(self)
    cpdef Segment segment(self, Py_ssize_t slot)
    cpdef int64_t inflight(self, Py_ssize_t endpoint) except? -1
    cpdef int64_t connections(self, Py_ssize_t place) except? -1
    cpdef int64_t waiting(self, Py_ssize_t place) except? -1
    @cython.locals(at=Py_ssize_t, total=int64_t)
    cdef int64_t _sum(self, Py_ssize_t table, Py_ssize_t place) except? -1
