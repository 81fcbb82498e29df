cimport cython

from lbd.cluster.bound cimport LoadBound
from lbd.cluster.endpoint cimport Endpoint
from lbd.cluster.selector cimport Selector
from lbd.core.board cimport Segment

cdef class Roster:
    cdef public tuple endpoints
    cdef public object breaker, policy, random
    cdef public Py_ssize_t revision
    cdef public Segment segment
    cdef public list freed

    @cython.locals(endpoint=Endpoint)
    cpdef revise(self)

cdef class Tier:
    cdef readonly Selector selector
    cdef readonly LoadBound bound
    cdef readonly Py_ssize_t cell

cdef class Selection:
    cdef readonly bint is_panicking
    cdef Roster _roster
    cdef object _balance, _subset
    cdef bint _heeds_panic, _skips
    cdef Py_ssize_t _revision
    cdef list _built
    cdef tuple _tiers, _thresholds
    cdef Tier _first, _behind
    cdef Endpoint _only
    cdef frozenset _usable

    @cython.locals(endpoint=Endpoint, tier=Tier)
    cpdef Endpoint pick(self, bytes key, tried)
    cdef Endpoint _probe(self, bytes key, tried)
    cpdef bint has(self, Endpoint endpoint) except -1
    cpdef bint takes(self, Endpoint endpoint) except -1
    @cython.locals(x=double, threshold=double, number=Py_ssize_t)
    cdef Tier _drawn(self, bytes key)
    @cython.locals(endpoint=Endpoint, tier=Tier)
    cdef Endpoint _pick_next(self, bytes key, tried, Tier drawn)
    @cython.locals(endpoint=Endpoint)
    cdef Endpoint _candidate(self, Tier tier, bytes key, tried, LoadBound bound)
    cdef bint _may_take(self, Endpoint endpoint, LoadBound bound) except -1
    cdef arrange(self)
    cdef _settle_shares(self, list shares)
    cdef Py_ssize_t _spill_cell(self, part) except -2
    cdef _selector(self, list members)
