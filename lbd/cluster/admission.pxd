cimport cython

from lbd.core.board cimport Board, Segment

cdef class Admission:
    cdef readonly object policy
    cdef readonly Py_ssize_t inflight, connections, max_connections
    cdef object _cluster, _gradient, _queue, _random
    cdef Py_ssize_t _place, _length, _limit, _max_requests
    cdef Segment _segment
    cdef Board _board
    cdef bint _is_connecting, _is_serving

    cpdef obey(self, policy)
    cpdef begun(self, Py_ssize_t count=*)
    cpdef ended(self)
    cpdef Py_ssize_t load(self) except? -1
    cpdef bint is_full(self) except -1
    cpdef bint admits(self) except -1
    cpdef bint takes(self, endpoint) except -1
    cpdef connected(self, Py_ssize_t change)
    cpdef bint lacks_connection(self, Py_ssize_t coming) except -1
    cpdef took(self, double seconds, double now)
    cpdef serve(self)
    cdef _count(self, Py_ssize_t change)
