cimport cython
from libc.stdint cimport int64_t

from lbd.cluster.cluster cimport Cluster
from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.pool cimport Pool
from lbd.core.fiber cimport Fiber
from lbd.core.reactor cimport Pollable, Reactor
from lbd.proxy.downstream cimport Downstream
from lbd.proxy.forwarding cimport ConnectionForwarding
from lbd.proxy.listening cimport Listener
from lbd.proxy.target cimport Target
from lbd.proxy.upstream cimport Upstream
from lbd.wire.body cimport response_framing
from lbd.wire.message cimport RequestHead, ResponseHead

cdef class Exchange:
    cdef public Listener listener
    cdef public Downstream downstream
    cdef public RequestHead request
    cdef public object route
    cdef public Endpoint endpoint
    cdef public Fiber fiber
    cdef public Reactor reactor
    cdef public Target target
    cdef public Upstream upstream
    cdef public double started, total_at, connect_seconds, first_byte_seconds, duration
    cdef public object client, reason, detail
    cdef public bytes request_id
    cdef public int status, attempts, framing
    cdef public bint is_reused, is_tunnel, upload_done
    cdef public int64_t bytes_in, bytes_out, upstream_in, upstream_out, tunnelled_up, tunnelled_down
    cdef Fiber _upload
    cdef Pool _pool
    cdef bytes _body, _path, _host, _extra
    cdef list _tried
    cdef bint _needs_new, _certain
    cdef object _failure
    cdef int _failures
    cdef double _sent_at

    @cython.locals(downstream=Downstream, listener=Listener, up=int64_t, down=int64_t)
    cpdef finish(self)
    @cython.locals(downstream=Downstream, request=RequestHead, target=Target, forwarding=ConnectionForwarding, limit=int64_t)
    cdef _prepare(self, route)
    @cython.locals(cluster=Cluster, endpoint=Endpoint, key=bytes)
    cdef _choose(self)
    cdef _failed(self, error)
    @cython.locals(endpoint=Endpoint)
    cdef bint _take_pooled(self) except? False
    cdef _send_request(self)
    @cython.locals(upstream=Upstream)
    cdef _end_attempt(self)
    cdef _count(self, Upstream upstream)
    @cython.locals(downstream=Downstream, request=RequestHead, upstream=Upstream, framing=int, body=bytes, is_whole=bint)
    cdef bint _relay_start(self, ResponseHead head) except? False
    @cython.locals(now=double)
    cpdef answered(self, ResponseHead head)
    @cython.locals(upstream=Upstream)
    cdef _release(self, ResponseHead head)
    cpdef int64_t body_limit(self, route) except? -1
    @cython.locals(stream=Pollable)
    cdef _guard(self)
    @cython.locals(upload=Fiber)
    cpdef await_head(self)
    @cython.locals(deadline=double)
    cpdef arm(self, double seconds, int kind)
