cimport cython

from lbd.cluster.admission cimport Admission
from lbd.cluster.bound cimport LoadBound
from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.selector cimport Selector

cdef class Cluster:
    cdef readonly object policy, hash_key
    cdef readonly tuple endpoints, tiers
    cdef readonly bint is_panicking
    cdef readonly object origination
    cdef readonly Admission admission
    cdef public Py_ssize_t place
    cdef object _segment, _board, _random, _plain
    cdef dict _by_address
    cdef list _built
    cdef LoadBound _bound
    cdef Endpoint _only
    cdef Selector _first
    cdef bint _is_stale

    @cython.locals(endpoint=Endpoint)
    cpdef Endpoint pick(self, bytes key, tried)
    @cython.locals(endpoint=Endpoint, bound=LoadBound)
    cdef Endpoint _pick_next(self, bytes key, tried)
    cdef bint _may_take(self, Endpoint endpoint, LoadBound bound) except -1
    @cython.locals(endpoint=Endpoint)
    cpdef set_health(self, address, bint up)
    cdef _arrange(self)
    cdef _selector(self, list tier)
