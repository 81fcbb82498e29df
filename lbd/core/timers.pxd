cimport cython

cdef double TICKS
cdef double FAR
cdef long WIDE, WIDER

cdef class Timed:
    cdef public double deadline, due
    cdef public long tick

cdef class TimerWheel:
    cdef dict _buckets
    cdef list _ticks
    cdef long _current

    cpdef arm(self, Timed timed, double deadline)
    cpdef forget(self, Timed timed)
    @cython.locals(ahead=long, bucket=dict)
    cdef _move(self, Timed timed, long tick)
    @cython.locals(timed=Timed)
    cpdef list expired(self, double now)
    cpdef double next_at(self)
