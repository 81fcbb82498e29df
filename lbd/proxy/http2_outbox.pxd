cimport cython
from libc.stdint cimport int64_t

from lbd.proxy.http2_downstream cimport Http2Downstream
from lbd.proxy.http2_writer cimport FrameWriter
from lbd.wire.http2 cimport Http2Codec
from lbd.wire.http2_streams cimport Http2Stream

cdef int64_t QUANTUM

cdef class Outbox(FrameWriter):
    cdef readonly dict waiting

    @cython.locals(room=int64_t)
    cpdef offer(self, Http2Downstream downstream)
    @cython.locals(stream=Http2Stream)
    cpdef window_opened(self, Http2Downstream downstream)
    cpdef forget(self, int64_t number)
    cpdef drop(self)
    cpdef flush(self)
    @cython.locals(number=int64_t, room=int64_t, downstream=Http2Downstream)
    cdef _serve(self)
