from libc.stdint cimport int64_t

cdef class RetryBudget:
    cdef public int64_t begun
    cdef readonly int64_t made, denied
    cdef double _share, _least, _total, _spent, _seen_at, _tokens

    cpdef obey(self, double share, double least)
    cpdef bint spend(self, double now) except -1
    cpdef look(self, double now)
