from libc.stdint cimport uint32_t

from lbd.core.reactor cimport Pollable
from lbd.core.stream cimport Stream

cdef class MemoryStream(Stream):
    cdef public object inbox
    cdef MemoryStream _other
    cdef Stream _successor
    cdef Py_ssize_t _buffer
    cdef bint _has_ended, _is_shut, _is_reset

    cpdef object recv(self, Py_ssize_t limit)
    cpdef Py_ssize_t send(self, object data) except -1
    cpdef Py_ssize_t send_gathered(self, list parts) except -1
    cpdef send_eof(self)
    cpdef hand_over(self, Stream successor)
    cpdef bint is_fresh_now(self)
    cpdef close(self)
    cpdef reset(self)
    cdef _break_other(self)
    cdef _part(self)
    cdef _tell_other(self, uint32_t events)
