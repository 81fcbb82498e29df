cimport cython

from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.selector cimport Selector

cdef class Lottery:
    cdef Py_ssize_t _count
    cdef readonly list own, fill, classes

    @cython.locals(number=Py_ssize_t, own=double, members=list)
    cpdef Py_ssize_t draw(self, double x) except -1

cdef class Drawn(Selector):
    cdef Lottery _lottery

    cpdef Endpoint first(self, bytes key)

cdef class PowerOfTwo(Drawn):
    @cython.locals(one=Py_ssize_t, other=Py_ssize_t)
    cpdef Endpoint first(self, bytes key)
    cpdef Endpoint _better(self, Endpoint one, Endpoint other)

cdef class PeakEwma(PowerOfTwo):
    cdef double _usual

    @cython.locals(one_costs=double, other_costs=double, gap=double)
    cpdef Endpoint _better(self, Endpoint one, Endpoint other)
    cdef double _queue(self, Endpoint endpoint) except -1.0
