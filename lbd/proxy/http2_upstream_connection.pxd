cimport cython
from libc.stdint cimport int64_t, uint32_t

from lbd.core.fiber cimport Fiber, Signal
from lbd.core.reactor cimport Pollable, Reactor
from lbd.core.stream cimport Stream
from lbd.proxy.http2_upstream cimport Http2Upstream
from lbd.proxy.http2_writer cimport FrameWriter
from lbd.wire.http2 cimport Http2Codec
from lbd.wire.http2_events cimport BodyArrived, ResponseArrived, TrailersArrived

cdef uint32_t EPOLLOUT
cdef Py_ssize_t READ
cdef int64_t SHARE
cdef int STEPS, KEEPALIVE
cdef double NEVER

cdef class Http2UpstreamConnection:
    cdef readonly Stream stream
    cdef readonly object pool, policy
    cdef readonly Reactor reactor
    cdef readonly bytes scheme
    cdef public double opened_at, idle_since, received_at
    cdef public int64_t requests, streams
    cdef readonly dict upstreams, blocked
    cdef public bint has_served
    cdef readonly Http2Codec codec
    cdef object _on_end, _error, _fault
    cdef bint _is_called, _is_retired, _is_limited, _is_flood
    cdef double _ping_at
    cdef int64_t _pings, _most
    cdef Signal _ready
    cdef Fiber _fiber
    cdef FrameWriter _writer

    cpdef int64_t room(self) except? -1
    cpdef look(self)
    cpdef Http2Upstream join(self, bint is_reused)
    cpdef retire(self)
    cpdef call(self)
    @cython.locals(others=bint, most=int64_t)
    cpdef int64_t share(self, Http2Upstream upstream, int64_t size) except? -1
    @cython.locals(now=double)
    cpdef left(self, Http2Upstream upstream)
    cdef _write(self)
    @cython.locals(data=bytes)
    cdef bint _read(self) except? True
    cdef _obey(self, event)
    @cython.locals(upstream=Http2Upstream)
    cdef _response_arrived(self, ResponseArrived event)
    @cython.locals(upstream=Http2Upstream)
    cdef _body_arrived(self, BodyArrived event)
    @cython.locals(upstream=Http2Upstream)
    cdef _trailers_arrived(self, TrailersArrived event)
    @cython.locals(room=int64_t, upstream=Http2Upstream)
    cdef _unblock(self, int64_t number=*)
    @cython.locals(upstream=Http2Upstream)
    cdef _was_reset(self, event)
    @cython.locals(upstream=Http2Upstream)
    cdef _note_earlier(self, int64_t number)
    cdef _went_away(self, last, code, message)
    cdef _ping(self, double now)
    @cython.locals(upstream=Http2Upstream)
    cdef _fail(self, reason, message)
