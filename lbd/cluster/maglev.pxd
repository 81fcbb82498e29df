cimport cython
from libc.stdint cimport uint32_t

from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.hashed cimport Hashed

cdef uint32_t FREE

@cython.locals(entries=uint32_t[::1], nexts=uint32_t[::1], skips=uint32_t[::1], number=Py_ssize_t, entry=Py_ssize_t, skip=Py_ssize_t)
cpdef fill_table(names, weights, Py_ssize_t size)

cdef class MaglevTable(Hashed):
    cdef readonly object table

    cpdef Py_ssize_t place(self, bytes key) except -1
    cpdef Endpoint owner(self, Py_ssize_t place)
