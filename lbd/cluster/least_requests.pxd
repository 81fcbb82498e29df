cimport cython

from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.selector cimport Selector

cdef class LeastRequests(Selector):
    cdef list _entries, _heap
    cdef Py_ssize_t _place
    cdef double _time

    @cython.locals(endpoint=Endpoint)
    cdef double _score(self, Py_ssize_t number) except? -1.0
    @cython.locals(score=double, known=double, deadline=double, number=Py_ssize_t, entry=tuple)
    cpdef Endpoint first(self, bytes key)
    @cython.locals(endpoint=Endpoint, entry=tuple)
    cdef tuple _turn(self, double score, double deadline, Py_ssize_t number)
    @cython.locals(score=double, deadline=double, now=double)
    cdef _refresh(self, Py_ssize_t number)
    cdef _tidy(self)
