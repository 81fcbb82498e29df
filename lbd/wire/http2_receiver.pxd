cimport cython
from libc.stdint cimport int64_t

from lbd.wire.hpack_in cimport FieldDecoder
from lbd.wire.http2_control cimport rst_stream, window_update
from lbd.wire.http2_events cimport BodyArrived, RequestArrived, ResponseArrived, TrailersArrived
from lbd.wire.http2_frames cimport reset_frame
from lbd.wire.http2_heads cimport request_head, response_head, trailers_of
from lbd.wire.http2_state cimport Http2State
from lbd.wire.http2_streams cimport Http2Stream
from lbd.wire.message cimport Headers, RequestHead, ResponseHead

cdef int ACK, CONTINUATION, DATA, DEFAULT_FRAME, END_HEADERS, END_STREAM, HEADERS, PADDED, PRIORITY_FLAG, RST_STREAM, SETTINGS
cdef int WINDOW_UPDATE, MOST_PIECES

cdef class Http2Receiver(Http2State):
    cdef list _block
    cdef int _block_flags
    cdef int64_t _block_size, _block_stream, _hardest, _most_streams
    cdef bytes _buffer, _preface
    cdef bint _has_settings
    cdef FieldDecoder _decoder

    @cython.locals(events=list)
    cpdef list receive(self, bytes data, double now)
    cdef _break(self, fault)
    @cython.locals(at=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t, come=bytes, length=int, kind=int, flags=int, number=int64_t)
    cdef _split(self, bytes data)
    cdef _frame(self, int kind, int flags, int64_t number, bytes payload)
    cdef _handle(self, int kind, int flags, int64_t number, bytes payload)
    @cython.locals(stream=Http2Stream)
    cdef _fail(self, int64_t number, fault)
    @cython.locals(content=bytes)
    cdef _headers(self, int64_t number, int flags, bytes payload)
    cdef _continuation(self, int64_t number, int flags, bytes payload)
    @cython.locals(number=int64_t, block=bytes, fields=tuple)
    cdef _add_to_block(self, bytes content, int flags)
    @cython.locals(stream=Http2Stream)
    cdef _take_fields(self, int64_t number, tuple fields, bint has_ended)
    @cython.locals(stream=Http2Stream, head=RequestHead)
    cdef _take_request(self, int64_t number, tuple fields, bint has_ended)
    cdef _refuse(self, Http2Stream stream, error, tuple fields, bint has_ended)
    @cython.locals(head=ResponseHead, is_bare=bint)
    cdef _take_response(self, Http2Stream stream, tuple fields, bint has_ended)
    @cython.locals(trailers=Headers)
    cdef _take_trailers(self, Http2Stream stream, tuple fields, bint has_ended)
    @cython.locals(stream=Http2Stream, content=bytes, padding=int64_t, size=int64_t, has_ended=bint)
    cdef _data(self, int64_t number, int flags, bytes payload)
    cdef _take_data(self, Http2Stream stream, bytes content, bint has_ended)
    cdef _check_length(self, Http2Stream stream)
    cdef _remote_ended(self, Http2Stream stream)
