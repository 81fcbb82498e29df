cimport cython
from libc.stdint cimport int64_t

from lbd.core.fiber cimport Fiber
from lbd.core.reactor cimport Reactor
from lbd.proxy.downstream cimport Downstream
from lbd.proxy.listening cimport Listener
from lbd.proxy.upstream cimport Upstream
from lbd.wire.message cimport ResponseHead

cdef Py_ssize_t PIECE
cdef int AGE, QUIET

cdef class Tunnel:
    cdef object _exchange
    cdef Listener _listener
    cdef Reactor _reactor
    cdef Fiber _fiber
    cdef Downstream _downstream
    cdef Upstream _upstream
    cdef int64_t _down, _up
    cdef Py_ssize_t _limit_down, _limit_up, _window
    cdef double _dies_at
    cdef bint _is_spliceable
    cdef object _watcher

    @cython.locals(downstream=Downstream, said=bytes)
    cpdef open(self, ResponseHead head)
    @cython.locals(data=bytes, size=Py_ssize_t)
    cdef Py_ssize_t _carry_up(self) except? -2
    @cython.locals(data=bytes, size=Py_ssize_t)
    cdef Py_ssize_t _carry_down(self) except? -2
    cpdef _spliced_up(self, int64_t size)
    cpdef _spliced_down(self, int64_t size)
    @cython.locals(idle=double, deadline=double)
    cdef _carried(self, int64_t up, int64_t down)
