from libc.stdint cimport int64_t

from lbd.wire.message cimport Headers, RequestHead, ResponseHead

cdef class RequestArrived:
    cdef readonly int64_t stream
    cdef readonly RequestHead head
    cdef readonly bint has_ended

cdef class ResponseArrived:
    cdef readonly int64_t stream
    cdef readonly ResponseHead head
    cdef readonly bint has_ended

cdef class BodyArrived:
    cdef readonly int64_t stream
    cdef readonly bytes data
    cdef readonly bint has_ended

cdef class TrailersArrived:
    cdef readonly int64_t stream
    cdef readonly Headers trailers
