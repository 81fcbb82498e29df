cimport cython
from libc.stdint cimport int64_t

from lbd.core.stream cimport Stream
from lbd.wire.http2 cimport Http2Codec

cdef int64_t BACKLOG, MOST

cdef class FrameWriter:
    cdef Http2Codec _codec
    cdef Stream _stream
    cdef object _unsent

    cpdef int64_t backlog(self) except? -1
    cpdef int64_t room(self) except? -1
    cpdef bint is_over(self) except? True
    cpdef bint is_stuck(self) except? True
    @cython.locals(sent=Py_ssize_t)
    cpdef bint write(self) except? True
