cimport cython
from libc.stdint cimport int64_t

from lbd.core.fiber cimport Fiber
from lbd.core.reactor cimport Reactor
from lbd.core.stream cimport Stream
from lbd.proxy.connection cimport Connection
from lbd.proxy.exchange cimport Exchange
from lbd.proxy.forwarding cimport ConnectionForwarding, Forwarding
from lbd.proxy.http2_downstream cimport Http2Downstream
from lbd.proxy.http2_outbox cimport Outbox
from lbd.proxy.listening cimport Listener
from lbd.wire.http2 cimport Http2Codec
from lbd.wire.http2_events cimport BodyArrived, RequestArrived, TrailersArrived
from lbd.wire.message cimport RequestHead

cdef Py_ssize_t READ
cdef int IDLE, AGE, LAST, LINGER, STEPS
cdef double NEVER

cdef class Http2Connection:
    cdef readonly Listener listener
    cdef readonly Stream stream
    cdef readonly Reactor reactor
    cdef readonly Fiber fiber
    cdef readonly Http2Codec codec
    cdef readonly dict downstreams, fibers
    cdef readonly Outbox outbox
    cdef readonly Connection source
    cdef readonly ConnectionForwarding forwarding
    cdef Forwarding _policy_forwarding
    cdef bytes _scheme, _identity
    cdef int _port
    cdef bint _is_awake, _has_eof
    cdef int64_t _requests
    cdef object _stage
    cdef double _age_at, _last_at, _idle_at

    cdef bint _is_done(self) except? True
    cdef bint _reads(self) except? True
    @cython.locals(data=bytes)
    cdef bint _read(self) except? True
    cpdef touched(self)
    @cython.locals(deadline=double, kind=int)
    cdef _arm(self)
    cdef _expired(self, int kind)
    cdef _leave_if_due(self)
    cdef _leave(self)
    cdef _close(self)
    cdef _take(self, bytes data)
    cdef _obey(self, event)
    @cython.locals(number=int64_t, request=RequestHead, has_ended=bint, downstream=Http2Downstream)
    cdef _request_arrived(self, RequestArrived event)
    @cython.locals(number=int64_t)
    cdef _ended(self, Http2Downstream downstream)
    cdef _request_refused(self, event)
    @cython.locals(downstream=Http2Downstream)
    cdef _body_arrived(self, BodyArrived event)
    @cython.locals(downstream=Http2Downstream)
    cdef _trailers_arrived(self, TrailersArrived event)
    @cython.locals(downstream=Http2Downstream)
    cdef _stream_reset(self, event)
    @cython.locals(downstream=Http2Downstream)
    cdef _settings_changed(self)
    cdef _ping_answered(self, event)
    cdef _broken(self, event)
    cpdef acknowledge(self, int64_t number, int64_t size)
    cpdef reset(self, int64_t number, int code)
    cpdef offer(self, Http2Downstream downstream)
