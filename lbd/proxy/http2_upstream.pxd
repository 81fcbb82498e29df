cimport cython
from libc.stdint cimport int64_t, uint32_t

from lbd.core.reactor cimport Pollable, Reactor
from lbd.proxy.http2_upstream_connection cimport Http2UpstreamConnection
from lbd.proxy.pieces cimport gather
from lbd.proxy.upstream cimport Upstream
from lbd.wire.http2 cimport Http2Codec
from lbd.wire.message cimport Headers, RequestHead, ResponseHead

cdef uint32_t EPOLLHUP, EPOLLIN, EPOLLOUT
cdef Py_ssize_t FIRST, MOST_HEADS
cdef double SILENCE
cdef int UNTIL_CLOSE

cdef class Http2Upstream(Upstream):
    cdef readonly Http2UpstreamConnection connection
    cdef readonly int64_t number
    cdef readonly double began_at
    cdef readonly bint was_refused
    cdef bint _is_reused, _has_ended, _is_last, _is_whole
    cdef object _heads, _chunks, _error
    cdef Headers _trailers, _last_trailers
    cdef RequestHead _offer
    cdef bytes _protocol

    @cython.locals(connection=Http2UpstreamConnection, codec=Http2Codec, before=int64_t)
    cpdef send_request(self, RequestHead request, bytes target, bytes host, int framing, bytes extra, bytes body)
    cpdef send_body(self, bytes body, bint has_ended, Headers trailers)
    @cython.locals(
        connection=Http2UpstreamConnection, codec=Http2Codec, before=int64_t, has_ended=bint, trailers=Headers, size=int64_t, sent=int64_t,
        is_last=bint,
    )
    cpdef send_more(self)
    cdef _stop_sending(self)
    @cython.locals(head=ResponseHead)
    cpdef ResponseHead maybe_head(self)
    @cython.locals(data=bytes)
    cpdef bytes begin_body(self, int framing, int64_t length)
    @cython.locals(data=bytes)
    cpdef bytes maybe_body(self, Py_ssize_t limit)
    cdef _note_end(self)
    cpdef bytes switch(self)
    cpdef send_eof(self)
    cdef _wait(self)
    @cython.locals(size=Py_ssize_t, pieces=list, codec=Http2Codec)
    cdef bytes _taken(self, Py_ssize_t limit)
    cpdef headed(self, ResponseHead head, bint has_ended)
    cpdef came(self, bytes data, bint has_ended)
    cpdef ended(self, Headers trailers, bint has_ended)
    cpdef failed(self, error)
    cpdef was_reset(self, code, message, bint is_ours)
    cpdef bint is_clean(self)
    cpdef close(self)
    cpdef bint is_silent(self, double now) except? True
