cimport cython

from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.selector cimport Selector

cdef class Hashed(Selector):
    cdef readonly Py_ssize_t places

    cpdef Py_ssize_t place(self, bytes key) except -1
    cpdef Endpoint owner(self, Py_ssize_t place)
    cpdef Endpoint first(self, bytes key)
