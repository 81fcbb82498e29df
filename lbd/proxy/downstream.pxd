from libc.stdint cimport int64_t

from lbd.core.reactor cimport Pollable
from lbd.proxy.forwarding cimport ConnectionForwarding
from lbd.proxy.listening cimport Listener
from lbd.wire.message cimport Headers, RequestHead, ResponseHead

cdef class Downstream:
    cdef public Listener listener
    cdef public Pollable stream
    cdef public ConnectionForwarding forwarding
    cdef public Headers trailers
    cdef public object source, unsent
    cdef public bint keep_alive, head_sent, body_ended
    cdef public int64_t body_received, bytes_in, bytes_out
    cdef public double deadline
    cdef public int grpc_status

    cpdef bytes whole_body(self, RequestHead request)
    cpdef begin_body(self, RequestHead request)
    cpdef bytes maybe_body(self, Py_ssize_t limit)
    cpdef int64_t body_remaining(self)
    cpdef body_spliced(self, int64_t count)
    cpdef send_informational(self, ResponseHead head)
    cpdef send_response(self, RequestHead request, ResponseHead head, int framing, bytes extra, bytes body, bint has_ended)
    cpdef send_body(self, bytes body, bint has_ended, Headers trailers)
    cpdef answer(self, RequestHead request, answer)
    cpdef int switch(self, RequestHead request, ResponseHead head, bytes extra, bytes said) except? -1
    cpdef send_eof(self)
    cpdef bint is_spliceable(self)
    cpdef send_more(self)
    cpdef cut(self)
    cpdef fail(self, error)
