from lbd.cluster.endpoint cimport Endpoint

cdef class LoadBound:
    cdef tuple _endpoints
    cdef dict _loads
    cdef double _factor
    cdef Py_ssize_t _weights, _total, _place

    cpdef bint allows(self, Endpoint endpoint) except -1
    cdef Py_ssize_t _refresh(self, Endpoint endpoint) except? -1
