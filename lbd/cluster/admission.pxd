cimport cython

from lbd.core.board cimport Board, Segment

cdef class Admission:
    cdef readonly object policy
    cdef readonly Py_ssize_t inflight
    cdef object _cluster, _queue
    cdef Py_ssize_t _place, _length, _max_requests
    cdef Segment _segment
    cdef Board _board
    cdef bint _is_serving

    cpdef obey(self, policy)
    cpdef begun(self, Py_ssize_t count=*)
    cpdef ended(self)
    cpdef Py_ssize_t load(self) except? -1
    cpdef bint is_full(self) except -1
    cpdef bint admits(self) except -1
    cpdef bint takes(self, endpoint) except -1
    cpdef serve(self)
    cdef _count(self, Py_ssize_t change)
