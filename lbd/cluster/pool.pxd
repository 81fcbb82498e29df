cdef class Pool:
    cdef readonly object policy
    cdef list _idle
    cdef Py_ssize_t _max_idle, _max_requests
    cdef double _idle_timeout, _max_age
    cdef bint _is_bounded, _is_retired

    cpdef obey(self, policy)
    cpdef object take(self, double now, bint certain=*)
    cpdef give(self, connection, double now)
    cpdef expire(self, double now)
    cpdef close_all(self)
    cpdef retire(self)
    cdef bint _is_usable(self, connection, double now) except -1
    cdef _close_oldest(self, Py_ssize_t count)
