cimport cython
from libc.stdint cimport int64_t

from lbd.wire.http2_state cimport Http2State
from lbd.wire.http2_streams cimport Http2Stream

@cython.locals(stream=Http2Stream)
cpdef rst_stream(Http2State state, int64_t number, int flags, bytes payload)
@cython.locals(stream=Http2Stream, increment=int64_t)
cpdef window_update(Http2State state, int64_t number, int flags, bytes payload)
