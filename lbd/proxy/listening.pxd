cimport cython
from libc.stdint cimport int64_t

from lbd.core.board cimport Segment
from lbd.core.fiber cimport Fiber
from lbd.proxy.forwarding cimport Forwarding
from lbd.proxy.shedding cimport Shedding
from lbd.proxy.target cimport Histogram, Target
from lbd.routing.table cimport RoutingTable
from lbd.wire.message cimport RequestHead
from lbd.wire.refusal cimport HeadLimits

cdef class Listener:
    cdef Segment _segment
    cdef object _clusters
    cdef dict _cells
    cdef int64_t[::1] _numbers
    cdef Py_ssize_t _downstream_in, _downstream_out, _upstream_in, _upstream_out
    cdef object _lines
    cdef public object access, complaints, connect, crowd, hellos, policy, proxied, random, room, termination, upgrades, wall_clock
    cdef public Forwarding forwarding
    cdef public HeadLimits head_limits
    cdef public RoutingTable table
    cdef public dict acceptors
    cdef public set fibers, leaving, opening
    cdef public dict heads, idle
    cdef public bint half_close, is_draining, opens, shows_reason
    cdef public double body_timeout, handshake_timeout, head_timeout, keepalive_timeout, linger_timeout, tunnel_idle, tunnel_lifetime
    cdef public int64_t max_body, max_requests
    cdef public Py_ssize_t window
    cdef public Target unrouted
    cdef public Shedding shedding

    @cython.locals(target=Target)
    cpdef Target target(self, route, RequestHead request=*)
    cpdef moved(self, int64_t downstream_in, int64_t downstream_out, int64_t upstream_in, int64_t upstream_out)
