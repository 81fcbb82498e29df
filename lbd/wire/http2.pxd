cimport cython
from libc.stdint cimport int64_t

from lbd.wire.hpack_out cimport LineEncoder, encoded_fields, encoded_status
from lbd.wire.frame_bytes cimport frame
from lbd.wire.http2_frames cimport head_frames, reset_frame
from lbd.wire.http2_heads cimport request_fields, request_lines
from lbd.wire.http2_receiver cimport Http2Receiver
from lbd.wire.http2_streams cimport Http2Stream
from lbd.wire.message cimport Headers, RequestHead, ResponseHead

cdef int DATA, DEFAULT_FRAME, END_STREAM

cdef class Http2Codec(Http2Receiver):
    cdef LineEncoder _lines

    cpdef bint can_open(self) except? True
    cpdef bint is_going(self) except? True
    @cython.locals(number=int64_t, stream=Http2Stream, block=bytes)
    cpdef int64_t begin_request(self, RequestHead head, bytes target, bytes authority, bytes extra, bint has_ended) except -1
    cpdef send_informational(self, int64_t number, ResponseHead head)
    @cython.locals(stream=Http2Stream)
    cpdef send_response(self, int64_t number, ResponseHead head, bytes extra, bint has_ended)
    @cython.locals(block=bytes)
    cdef _put_response(self, int64_t number, ResponseHead head, bytes extra, bint has_ended, int64_t length)
    @cython.locals(stream=Http2Stream)
    cpdef int64_t room(self, int64_t number) except -1
    @cython.locals(stream=Http2Stream, size=int64_t, at=int64_t, is_cut=bint, is_last=bint, piece=bytes)
    cpdef int64_t send_body(self, int64_t number, data, bint has_ended) except -1
    @cython.locals(stream=Http2Stream, block=bytes)
    cpdef send_trailers(self, int64_t number, Headers trailers)
    @cython.locals(stream=Http2Stream)
    cpdef acknowledge(self, int64_t number, int64_t size)
    @cython.locals(stream=Http2Stream)
    cpdef reset(self, int64_t number, int code)
    cpdef ping(self, bytes data)
    @cython.locals(out=list)
    cpdef bytes take(self)
