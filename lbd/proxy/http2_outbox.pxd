cimport cython
from libc.stdint cimport int64_t

from lbd.core.stream cimport Stream
from lbd.proxy.http2_downstream cimport Http2Downstream
from lbd.wire.http2 cimport Http2Codec
from lbd.wire.http2_streams cimport Http2Stream

cdef int64_t BACKLOG, MOST, QUANTUM

cdef class Outbox:
    cdef Http2Codec _codec
    cdef Stream _stream
    cdef object _unsent
    cdef readonly dict waiting

    cpdef int64_t backlog(self) except? -1
    cpdef bint is_over(self) except? True
    cpdef bint is_stuck(self) except? True
    @cython.locals(room=int64_t)
    cpdef offer(self, Http2Downstream downstream)
    @cython.locals(stream=Http2Stream)
    cpdef window_opened(self, Http2Downstream downstream)
    cpdef forget(self, int64_t number)
    cpdef drop(self)
    @cython.locals(sent=Py_ssize_t)
    cpdef flush(self)
    @cython.locals(number=int64_t, room=int64_t, downstream=Http2Downstream)
    cdef _serve(self)
