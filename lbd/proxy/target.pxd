cimport cython
from libc.stdint cimport int64_t

from lbd.cluster.budget cimport RetryBudget
from lbd.cluster.cluster cimport Cluster
from lbd.core.board cimport Segment

cdef class Histogram:
    cdef tuple _bounds
    cdef Py_ssize_t _first, _sum
    cdef int64_t[::1] _cells

    @cython.locals(at=Py_ssize_t)
    cpdef observe(self, double seconds)

cdef class Target:
    cdef public Cluster cluster
    cdef public object chooser
    cdef public object cluster_name, route_name, send_proxy
    cdef public bytes own_host
    cdef public object rules, methods, hedging
    cdef public RetryBudget budget
    cdef public int judged_from, keeps
    cdef public bint may_undo
    cdef public double connect_timeout, response_timeout, attempt_timeout, idle_timeout, total_timeout
    cdef public Histogram upstream_duration
    cdef Segment _segment
    cdef int64_t[::1] _cells
    cdef tuple _labels
    cdef dict _answered, _called
    cdef Histogram _duration

    @cython.locals(cell=Py_ssize_t)
    cpdef answered(self, int status, double seconds)
    @cython.locals(cell=Py_ssize_t)
    cpdef call_ended(self, int status)
