cimport cython

from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.selector cimport Selector

cdef class Lap:
    cdef list _endpoints
    cdef Py_ssize_t _place
    cdef readonly double stride

    @cython.locals(place=Py_ssize_t)
    cdef Endpoint turn(self)

cdef class RoundRobin(Selector):
    cdef Lap _only
    cdef list _due

    @cython.locals(lap=Lap, deadline=double)
    cpdef Endpoint first(self, bytes key)
