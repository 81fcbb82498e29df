from lbd.core.fiber cimport Fiber
from lbd.core.reactor cimport Pollable, Reactor
from lbd.core.syscalls cimport accept, is_readable, recv, send, send_gathered

cdef class Stream(Pollable):
    cdef public object peer

    cpdef object recv(self, Py_ssize_t limit)
    cpdef Py_ssize_t send(self, object data) except -1
    cpdef Py_ssize_t send_gathered(self, list parts) except -1
    cpdef send_eof(self)
    cpdef bint ended_whole(self) except? False
    cpdef hand_over(self, Stream successor)
    cpdef bint is_fresh(self)
    cpdef bint is_fresh_now(self)
    cpdef reset(self)

cdef class Acceptor(Pollable):
    cdef public object name, owner
    cdef public Fiber fiber
    cdef public int port

    cpdef object accept(self)
    cpdef close(self)
