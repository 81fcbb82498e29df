from libc.stdint cimport int64_t

from lbd.core.reactor cimport Pollable
from lbd.wire.message cimport Headers, RequestHead, ResponseHead

cdef class Upstream:
    cdef public Pollable stream
    cdef public double opened_at, idle_since
    cdef public int64_t requests, bytes_in, bytes_out
    cdef public int interim
    cdef public object unsent
    cdef public Headers trailers
    cdef public bint body_ended, has_answered

    cpdef send_request(self, RequestHead request, bytes target, bytes host, int framing, bytes extra, bytes body)
    cpdef send_body(self, bytes body, bint has_ended, Headers trailers)
    cpdef bint is_spliceable(self)
    cpdef send_more(self)
    cpdef ResponseHead maybe_head(self)
    cpdef bytes begin_body(self, int framing, int64_t length)
    cpdef bytes maybe_body(self, Py_ssize_t limit)
    cpdef int64_t body_remaining(self)
    cpdef body_spliced(self, int64_t count)
    cpdef bytes switch(self)
    cpdef send_eof(self)
    cpdef bint is_clean(self)
    cpdef bint is_fresh(self)
    cpdef bint is_fresh_now(self)
    cpdef close(self)
