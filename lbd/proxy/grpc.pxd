cimport cython

from lbd.wire.message cimport Headers, RequestHead

cdef bytes CONTENT_TYPE

@cython.locals(kind=bytes)
cpdef bint is_grpc(RequestHead request) except? True
cpdef maybe_timeout(RequestHead request)
@cython.locals(value=bytes)
cpdef int status_among(Headers fields) except? -1
