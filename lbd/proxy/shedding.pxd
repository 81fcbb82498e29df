cdef class Shedding:
    cdef readonly object policy
    cdef readonly int level
    cdef readonly bint may_accept
    cdef readonly long refused
    cdef readonly double lag, pressure
    cdef double _by_lag, _by_memory, _heard_at, _since, _least, _limit
    cdef object _memory
    cdef int _readings
    cdef list _owed

    cpdef bint sheds(self, int rank) except -1
