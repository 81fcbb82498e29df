cimport cython
from libc.stdint cimport int64_t, uint32_t

from lbd.core.reactor cimport Pollable, Reactor
from lbd.proxy.downstream cimport Downstream
from lbd.proxy.http2 cimport Http2Connection
from lbd.proxy.grpc cimport is_grpc, maybe_timeout, status_among
from lbd.proxy.pieces cimport gather
from lbd.wire.http2 cimport Http2Codec
from lbd.wire.http2_streams cimport Http2Stream
from lbd.wire.message cimport Headers, RequestHead, ResponseHead

cdef uint32_t EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
cdef int NO_BODY, NOT_GRPC, UNTOLD, INTERNAL_ERROR, NO_ERROR
cdef double NEVER

cdef class Http2Downstream(Downstream):
    cdef readonly Http2Connection connection
    cdef readonly int64_t number
    cdef public bint is_gone
    cdef object _chunks
    cdef bint _has_come, _is_last, _is_bare, _is_connect
    cdef Headers _trailers, _last_trailers
    cdef int64_t _taken
    cdef bytes _key

    cpdef arrived(self, bytes data, bint has_ended)
    cpdef trailers_arrived(self, Headers trailers)
    cpdef went_away(self)
    cdef _announce(self, uint32_t events)
    cpdef settle(self, RequestHead request)
    @cython.locals(body=bytes)
    cpdef bytes whole_body(self, RequestHead request)
    cpdef begin_body(self, RequestHead request)
    @cython.locals(data=bytes)
    cpdef bytes maybe_body(self, Py_ssize_t limit)
    @cython.locals(codec=Http2Codec, before=int64_t)
    cpdef send_informational(self, ResponseHead head)
    cpdef send_response(self, RequestHead request, ResponseHead head, int framing, bytes extra, bytes body, bint has_ended)
    @cython.locals(codec=Http2Codec, before=int64_t)
    cdef _send_head(self, ResponseHead head, bytes extra, bint has_ended)
    cpdef send_body(self, bytes body, bint has_ended, Headers trailers)
    cpdef int switch(self, RequestHead request, ResponseHead head, bytes extra, bytes said) except? -1
    cpdef send_eof(self)
    cpdef answer(self, RequestHead request, answer)
    @cython.locals(codec=Http2Codec, number=int64_t, before=int64_t, is_last=bint, sent=int64_t, size=int64_t)
    cpdef push(self, int64_t limit)
    cpdef pushed(self)
    cpdef send_more(self)
    cpdef cut(self)
    cpdef fail(self, error)
    cpdef count_call(self, target)
    @cython.locals(stream=Http2Stream)
    cpdef finish(self)
