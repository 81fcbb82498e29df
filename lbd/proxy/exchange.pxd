cimport cython
from libc.stdint cimport int64_t

from lbd.cluster.cluster cimport Cluster
from lbd.cluster.endpoint cimport Endpoint
from lbd.proxy.attempt cimport Attempting
from lbd.proxy.downstream cimport Downstream
from lbd.proxy.forwarding cimport ConnectionForwarding
from lbd.proxy.listening cimport Listener
from lbd.proxy.target cimport Target
from lbd.proxy.upstream cimport Upstream
from lbd.wire.body cimport response_framing
from lbd.wire.message cimport RequestHead, ResponseHead

cdef class Exchange(Attempting):
    @cython.locals(downstream=Downstream, listener=Listener, up=int64_t, down=int64_t)
    cpdef finish(self)
    @cython.locals(endpoint=Endpoint)
    cdef bint _choose(self) except -1
    @cython.locals(cluster=Cluster, key=bytes)
    cpdef Endpoint pick(self, tried)
    @cython.locals(downstream=Downstream, request=RequestHead, target=Target, forwarding=ConnectionForwarding, limit=int64_t, may_repeat=bint)
    cdef _prepare(self, route)
    cdef _drop(self, ResponseHead head)
    @cython.locals(downstream=Downstream, request=RequestHead, upstream=Upstream, framing=int, body=bytes, is_whole=bint)
    cdef bint _relay_start(self, ResponseHead head) except? False
    cpdef answered(self, ResponseHead head)
