cimport cython

from lbd.wire.frame_bytes cimport frame

cpdef bytes window_frame(stream, increment)
cpdef bytes reset_frame(stream, code)
@cython.locals(flags=int)
cpdef bytes head_frames(stream, bytes block, bint has_ended)
