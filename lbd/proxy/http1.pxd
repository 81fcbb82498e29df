from lbd.core.fiber cimport Fiber
from lbd.core.reactor cimport Reactor
from lbd.core.stream cimport Stream
from lbd.proxy.http1_downstream cimport Http1Downstream
from lbd.proxy.listening cimport Listener

cdef class Http1Connection:
    cdef public Listener listener
    cdef public Stream stream
    cdef public Reactor reactor
    cdef public Http1Downstream downstream
    cdef public Fiber fiber
    cdef double _began
    cdef bint _is_plain

    cdef _wait_for_request(self)
