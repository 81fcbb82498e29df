from libc.stdint cimport int64_t

cdef class Http2Stream:
    cdef readonly int64_t number
    cdef public bint remote_open, local_open, has_head
    cdef public int64_t in_window, out_window, taken, untaken, expected, received
    cdef public bytes method

cdef class Remembered:
    cdef Py_ssize_t _most
    cdef dict _numbers

    cpdef add(self, int64_t number)
