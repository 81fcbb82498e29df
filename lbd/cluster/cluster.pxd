cimport cython

from lbd.cluster.admission cimport Admission
from lbd.cluster.budget cimport RetryBudget
from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.selection cimport Roster, Selection

cdef class Cluster:
    cdef readonly object policy, hash_key
    cdef readonly tuple endpoints
    cdef readonly object circuit, hedging, origination, sticky
    cdef readonly Admission admission
    cdef public Py_ssize_t place
    cdef readonly RetryBudget budget
    cdef object _segment, _board, _plain, _slow_start, _tell
    cdef dict _by_address, _subsets, _subsets_before
    cdef Roster _roster
    cdef Selection _whole

    cpdef Endpoint pick(self, bytes key, tried)
    @cython.locals(endpoint=Endpoint)
    cpdef set_health(self, address, bint up, Py_ssize_t trial=*)
    cpdef changed(self)
    cpdef tick(self)
