cimport cython
from libc.stdint cimport int64_t

from lbd.core.stream cimport Stream
from lbd.proxy.upstream cimport Upstream
from lbd.wire.body cimport BodyReader
from lbd.wire.encode cimport encode_chunk, encode_last_chunk, encode_request
from lbd.wire.head cimport find_head_end, parse_response
from lbd.wire.message cimport Headers, RequestHead, ResponseHead
from lbd.wire.refusal cimport HeadLimits

cdef HeadLimits RESPONSE_LIMITS

cdef class Http1Upstream(Upstream):
    cdef public bytes buffer
    cdef Stream _bytes
    cdef object _endpoint
    cdef BodyReader _reader
    cdef int _framing, _request_framing
    cdef Py_ssize_t _searched

    @cython.locals(head=bytes)
    cpdef send_request(self, RequestHead request, bytes target, bytes host, int framing, bytes extra, bytes body)
    cpdef send_body(self, bytes body, bint has_ended, Headers trailers)
    cpdef bint is_spliceable(self)
    @cython.locals(sent=Py_ssize_t)
    cdef _send(self, bytes data)
    @cython.locals(sent=Py_ssize_t, size=Py_ssize_t)
    cdef _send_parts(self, list parts)
    cpdef send_more(self)
    @cython.locals(end=Py_ssize_t, data=bytes, head=ResponseHead)
    cpdef ResponseHead maybe_head(self)
    cpdef bytes recv(self, Py_ssize_t limit)
    @cython.locals(data=bytes)
    cpdef bytes begin_body(self, int framing, int64_t length)
    @cython.locals(data=bytes)
    cpdef bytes maybe_body(self, Py_ssize_t limit)
    @cython.locals(payload=bytes, reader=BodyReader)
    cdef bytes _feed(self, bytes data)
    cpdef int64_t body_remaining(self)
    @cython.locals(reader=BodyReader)
    cpdef body_spliced(self, int64_t count)
    cpdef bytes switch(self)
    cpdef send_eof(self)
    cpdef bint is_clean(self)
    cpdef bint is_fresh(self)
    cpdef bint is_fresh_now(self)
    cpdef close(self)
