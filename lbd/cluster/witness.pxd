cdef class Witness:
    cdef readonly bint is_alert
    cdef object _address, _breaker, _tell
    cdef Py_ssize_t _failures, _worse, _most_failures, _most_errors, _stale, _patience
    cdef bint _is_tried, _is_silent

    cpdef inform(self, breaker)
    cpdef obey(self, policy)
    cpdef begin_trial(self, Py_ssize_t inflight)
    cpdef end_trial(self)
    cpdef may_speak(self)
    cpdef succeeded(self)
    cpdef began_well(self)
    cpdef ended_well(self)
    cpdef failed(self, kind, what)
    cdef _start_anew(self)
    cdef bint _is_always_alert(self) except -1
    cdef bint _is_stale(self) except -1
    cdef _report(self, kind, sentence)
