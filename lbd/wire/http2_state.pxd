cimport cython
from libc.stdint cimport int64_t

from lbd.wire.http2_limits cimport Allowance
from lbd.wire.http2_streams cimport Http2Stream, Remembered

cdef class Http2State:
    cdef public object limits, went_away
    cdef public dict streams
    cdef public list events, out
    cdef public bint is_downstream, extended_connect, is_broken, is_acknowledged, must_empty_table
    cdef public int64_t count, highest, next_stream, last_taken, max_streams
    cdef public int64_t in_window, out_window, pending, initial_out, window, returned
    cdef public Remembered ended, resets
    cdef public Allowance reset_allowance, idle_allowance
    cdef public double now
    cdef int64_t _half_window, _half_connection

    cpdef put(self, bytes data)
    cpdef bytes table_update(self)
    cpdef earned(self, int64_t size, bint is_cut)
    @cython.locals(stream=Http2Stream)
    cpdef Http2Stream open(self, int64_t number)
    @cython.locals(stream=Http2Stream)
    cpdef Http2Stream sendable(self, int64_t number)
    cpdef local_ended(self, Http2Stream stream)
    cpdef drop(self, Http2Stream stream, bint by_us)
    cpdef took(self, Http2Stream stream, int64_t size)
    cpdef give_back(self, int64_t size)
    cpdef count_reset(self)
    cpdef idle(self, double count=*)
    @cython.locals(ours=bint)
    cpdef bint is_idle(self, int64_t number) except? True
