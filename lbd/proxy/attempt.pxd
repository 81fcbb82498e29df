cimport cython
from libc.stdint cimport int64_t

from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.pool cimport Pool
from lbd.core.fiber cimport Fiber
from lbd.core.reactor cimport Pollable, Reactor
from lbd.proxy.downstream cimport Downstream
from lbd.proxy.grpc cimport status_among
from lbd.proxy.listening cimport Listener
from lbd.proxy.target cimport Target
from lbd.proxy.upstream cimport Upstream
from lbd.wire.message cimport RequestHead, ResponseHead

cdef int NOT_GRPC

cdef class Attempting:
    cdef public Listener listener
    cdef public Downstream downstream
    cdef public RequestHead request
    cdef public object route
    cdef public Endpoint endpoint
    cdef public Fiber fiber
    cdef public Reactor reactor
    cdef public Target target
    cdef public Upstream upstream
    cdef public double started, total_at, connect_seconds, first_byte_seconds, duration, head_timeout, waited
    cdef public object claim, client, reason, detail, failed, kept, patience
    cdef public bytes request_id, body
    cdef public int status, attempts, framing
    cdef public bint is_reused, is_tunnel, upload_done, needs_new
    cdef public int64_t bytes_in, bytes_out, upstream_in, upstream_out, tunnelled_up, tunnelled_down
    cdef public Fiber upload
    cdef Pool _pool
    cdef bytes _path, _host, _extra
    cdef bint _certain
    cdef double _sent_at

    @cython.locals(endpoint=Endpoint)
    cdef bint _take_pooled(self) except? False
    @cython.locals(upstream=Upstream)
    cdef _end_attempt(self)
    @cython.locals(upstream=Upstream)
    cdef _release(self, ResponseHead head)
    cpdef count(self, Upstream upstream)
    cpdef send_on(self, Upstream upstream)
    cpdef go_on_with(self, Endpoint endpoint, Upstream upstream, Pool pool, double sent_at)
    cpdef int64_t body_limit(self, route) except? -1
    @cython.locals(now=double)
    cdef observe(self, ResponseHead head)
    cdef note_trailers(self)
    @cython.locals(stream=Pollable)
    cpdef guard(self)
    @cython.locals(upload=Fiber)
    cpdef await_head(self)
    @cython.locals(deadline=double)
    cpdef arm(self, double seconds, int kind)
