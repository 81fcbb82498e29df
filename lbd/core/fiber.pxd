cimport cython

from lbd.core.syscalls cimport resume
from lbd.core.timers cimport Timed, TimerWheel

cdef class Schedule

cdef class Pause:
    cdef readonly object name
    cdef tuple _steps

cdef class Signal:
    cdef Schedule _schedule
    cdef dict _waiting
    cdef public bint is_set

    cpdef set(self)

cdef class Fiber(Timed):
    cdef Schedule _schedule
    cdef public object coroutine
    cdef public object name
    cdef public object error
    cdef public int kind
    cdef Signal _done
    cdef object _pending
    cdef bint _has_started

    @cython.locals(schedule=Schedule, deadline=double)
    cpdef arm(self, double seconds, int kind)
    @cython.locals(schedule=Schedule)
    cpdef arm_at(self, double deadline, int kind)
    cpdef disarm(self)
    cpdef interrupt(self, error)
    cpdef cancel(self)
    @cython.locals(ended=bint)
    cpdef step(self)
    cpdef abandon(self)
    cdef _end(self)

cdef class Schedule:
    cdef public double now
    cdef public TimerWheel wheel
    cdef public Fiber current
    cdef public dict fibers
    cdef public bint is_stopping, is_over
    cdef object _on_fault
    cdef list _ready
    cdef public object nap

    cpdef Fiber running(self)
    cpdef Fiber spawn(self, coroutine, name)
    cpdef wake(self, Fiber fiber)
    cpdef rouse(self)
    @cython.locals(ready=list, fiber=Fiber)
    cpdef step_ready(self)
    @cython.locals(fiber=Fiber)
    cpdef expire(self)
    cpdef end(self, Fiber fiber)
    @cython.locals(fiber=Fiber)
    cpdef stop(self, int rounds)
