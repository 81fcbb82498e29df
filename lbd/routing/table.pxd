# Fields and arguments of table.py. A look-up by host and prefix: 1.4 us plain, 0.75 us compiled.

cimport cython


cdef class Group:
    cdef readonly list routes
    cdef public object shortlist
    cdef public object prefixes

    cpdef object find(self, request)


cdef class HostCell:
    cdef readonly dict exact
    cdef readonly dict wildcard
    cdef public Group anywhere

    @cython.locals(domain=bytes, group=Group)
    cpdef object find(self, bytes host, domains, request)


cdef class RoutingTable:
    cdef readonly tuple routes
    cdef readonly object only
    cdef dict _positions
    cdef dict _exact
    cdef dict _prefixes
    cdef HostCell _regexes
    cdef HostCell _anywhere
    cdef bint _has_regexes
    cdef bint _ignore_parameters
    cdef int _prefix_depth
    cdef int _domain_depth

    @cython.locals(host=bytes, path=bytes)
    cpdef object match(self, request)

    @cython.locals(cell=HostCell, prefix=bytes)
    cdef object _find(self, bytes path, bytes host, request)


@cython.locals(at=Py_ssize_t, i=int)
cpdef list domains_above(bytes host, int depth)

@cython.locals(at=Py_ssize_t, i=int)
cdef list prefixes_of(bytes path, int depth)
