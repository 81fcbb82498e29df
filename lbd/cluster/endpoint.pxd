cimport cython
from libc.stdint cimport int64_t

from lbd.cluster.admission cimport Admission
from lbd.cluster.pool cimport Pool
from lbd.cluster.witness cimport Witness
from lbd.core.board cimport Board, Segment

cdef class Endpoint:
    cdef readonly object cluster_name, address, name, zone, metadata
    cdef readonly Pool pool
    cdef readonly Py_ssize_t weight, index, max_requests, max_connections, own_limit, own_weight, priority, trial, inflight
    cdef readonly bint backup, drained, is_limited
    cdef public bint up
    cdef public object origination
    cdef readonly Admission admission
    cdef readonly Witness witness
    cdef readonly double latency, observed_at
    cdef Segment _segment
    cdef int64_t[::1] _counts, _flights
    cdef Board _board
    cdef dict _cells, _failed
    cdef Py_ssize_t _connections, _elders, _opened, _reused, _timed, _answers

    cpdef settle(self, facts)
    cpdef try_out(self, Py_ssize_t trial)
    cpdef limit(self, bint to_trial)
    cpdef weigh(self, Py_ssize_t weight)
    cpdef obey(self, policy)
    cpdef replace_pool(self, Pool pool)
    cpdef tidy(self, double now)
    cpdef begin(self)
    cpdef end(self)
    cpdef join(self, Admission admission)
    cpdef Py_ssize_t load(self) except? -1
    cpdef bint is_full(self) except -1
    cdef bint _is_full_with(self, Py_ssize_t load) except -1
    cpdef observe(self, double seconds, double now, int status=*)
    cpdef observe_call(self, double seconds, double now, int status)
    cpdef call_ended(self, int status)
    cpdef attempted(self, outcome, bint is_excused=*)
    cdef _judge(self, int status)
    @cython.locals(share=double)
    cdef _took(self, double seconds, double now)
    cdef _fail(self, kind, what)
    cdef _time(self, double seconds)
    cpdef opened(self)
    cpdef reused(self)
    cdef _settle_limits(self)
    cpdef connected(self)
    cpdef disconnected(self)
    cpdef Py_ssize_t connections(self) except? -1
    @cython.locals(carries=Py_ssize_t, beyond=Py_ssize_t, coming=Py_ssize_t)
    cdef bint _lacks_connection(self) except -1
    cdef Py_ssize_t _series(self, number) except -1
