cimport cython
from libc.stdint cimport int64_t

from lbd.cluster.pool cimport Pool

cdef class SharedPool(Pool):
    cdef readonly object http2
    cdef readonly bint can_be_single
    cdef set _open, _listed
    cdef dict _numbers
    cdef list _heap
    cdef object _queue
    cdef int64_t _serial, _dials, _per_dial, _last_end, _limit
    cdef bint _has_left
    cdef double _limit_until, _single_until

    cpdef object take(self, double now, bint certain=*)
    cpdef bint is_single(self, double now) except? True
    cdef object _with_room(self, double now, bint certain)
    @cython.locals(is_stale=bint)
    cdef bint _is_too_old(self, connection, double now) except? True
    cdef bint _is_used_up(self, connection, double now) except? True
    cpdef settled(self, connection, double now)
    cpdef lost(self, connection)
    cdef _serve(self, connection, double now, bint is_reused)
    cpdef expire(self, double now)
    cpdef close_all(self)
    cpdef retire(self)
