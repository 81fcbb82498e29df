cimport cython
from libc.stdint cimport int64_t

from lbd.core.stream cimport Stream
from lbd.proxy.downstream cimport Downstream
from lbd.proxy.forwarding cimport Forwarding
from lbd.wire.body cimport BodyReader
from lbd.wire.encode cimport encode_chunk, encode_informational, encode_last_chunk, encode_response
from lbd.wire.head cimport find_head_end, parse_request
from lbd.wire.message cimport Headers, RequestHead, ResponseHead
from lbd.wire.refusal cimport HeadLimits

cdef class Http1Downstream(Downstream):
    cdef public bytes buffer
    cdef public int64_t requests
    cdef Stream _bytes
    cdef Forwarding _forwarding
    cdef bytes _scheme, _identity
    cdef int _port
    cdef BodyReader _reader
    cdef int _body_framing, _framing
    cdef bint _is_raw
    cdef Py_ssize_t _searched

    @cython.locals(data=bytes)
    cpdef Py_ssize_t receive(self) except -2
    @cython.locals(end=Py_ssize_t, request=RequestHead, limits=HeadLimits)
    cpdef RequestHead maybe_request(self)
    @cython.locals(length=int64_t, data=bytes)
    cpdef bytes whole_body(self, RequestHead request)
    cpdef begin_body(self, RequestHead request)
    @cython.locals(data=bytes, payload=bytes, reader=BodyReader)
    cpdef bytes maybe_body(self, Py_ssize_t limit)
    @cython.locals(reader=BodyReader)
    cpdef int64_t body_remaining(self)
    @cython.locals(reader=BodyReader)
    cpdef body_spliced(self, int64_t count)
    cpdef send_informational(self, ResponseHead head)
    @cython.locals(encoded=bytes)
    cpdef send_response(self, RequestHead request, ResponseHead head, int framing, bytes extra, bytes body, bint has_ended)
    cpdef answer(self, RequestHead request, answer)
    cdef bytes _connection_field(self, RequestHead request)
    cpdef send_body(self, bytes body, bint has_ended, Headers trailers)
    cpdef int switch(self, RequestHead request, ResponseHead head, bytes extra, bytes said) except? -1
    cpdef send_eof(self)
    cpdef bint is_spliceable(self)
    @cython.locals(sent=Py_ssize_t)
    cpdef send(self, bytes data)
    cpdef send_more(self)
    @cython.locals(sent=Py_ssize_t, size=Py_ssize_t)
    cdef _send_parts(self, list parts)
    cpdef cut(self)
