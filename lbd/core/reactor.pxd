cimport cython
from libc.stdint cimport uint32_t

from lbd.core.fiber cimport Fiber, Schedule, Signal
from lbd.core.syscalls cimport Poller

cdef uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET, BROKEN, ENDED, INTEREST
cdef int BATCH, LINGER, POLLS
cdef double TURN, PATIENCE

cdef class Reactor

cdef class Pollable:
    cdef public Reactor reactor
    cdef public int fd
    cdef public bint may_read, may_write, hung_up, broken, is_closed
    cdef public Fiber reader, writer, guard

    @cython.locals(reader=Fiber, writer=Fiber, guard=Fiber)
    cpdef happened(self, uint32_t events)
    @cython.locals(fd=int)
    cpdef close(self)

cdef class Reactor(Schedule):
    cdef public object clock
    cdef readonly object pipes
    cdef object _on_turn
    cdef Poller _poller
    cdef list _pollables
    cdef dict _news
    cdef list _closing
    cdef bint _trio_is_due
    cdef object _nursery

    cpdef bint is_turn_over(self) except? True
    cpdef watch(self, Pollable pollable)
    @cython.locals(news=uint32_t)
    cpdef hand_over(self, Pollable pollable, Pollable successor)
    cpdef unwatch(self, Pollable pollable)
    cpdef close(self, int fd)
    cpdef rouse(self)
    cpdef announce(self, Pollable pollable, uint32_t events)
    @cython.locals(events=int, start=double, end=double, began=double, busy=double, timeout=int, is_idle=bint)
    cpdef bint _turn(self) except? False
    @cython.locals(i=int, poller=Poller, pollable=Pollable, what=uint32_t, news=dict)
    cdef _handle(self, int events)
    cdef _close_all(self)
