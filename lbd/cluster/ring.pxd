cimport cython
from libc.stdint cimport uint64_t

from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.hashed cimport Hashed

cdef class KetamaRing(Hashed):
    cdef readonly object points

    @cython.locals(place=Py_ssize_t)
    cpdef Py_ssize_t place(self, bytes key) except -1
    cpdef Endpoint owner(self, Py_ssize_t place)
