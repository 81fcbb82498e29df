from lbd.cluster.endpoint cimport Endpoint

cdef class Selector:
    cdef readonly tuple endpoints
    cdef readonly object random

    cpdef Endpoint first(self, bytes key)
