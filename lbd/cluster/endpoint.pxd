cimport cython

from lbd.cluster.admission cimport Admission
from lbd.cluster.pool cimport Pool
from lbd.core.board cimport Board, Segment

cdef class Endpoint:
    cdef readonly object cluster_name, address, name, zone, metadata
    cdef readonly Pool pool
    cdef readonly Py_ssize_t weight, index, max_requests, priority
    cdef readonly bint backup, drained
    cdef public bint up
    cdef public object origination
    cdef readonly Admission admission
    cdef readonly double latency, observed_at
    cdef Segment _segment
    cdef Board _board
    cdef dict _cells
    cdef Py_ssize_t _inflight, _opened, _reused

    cpdef settle(self, facts)
    cpdef replace_pool(self, Pool pool)
    cpdef begin(self)
    cpdef end(self)
    cpdef join(self, Admission admission)
    cpdef Py_ssize_t load(self) except? -1
    cpdef bint is_full(self) except -1
    @cython.locals(share=double)
    cpdef observe(self, double seconds, double now)
    cpdef attempted(self, outcome)
    cpdef opened(self)
    cpdef reused(self)
    cdef Py_ssize_t _series(self, number) except -1
