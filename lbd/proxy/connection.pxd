from lbd.core.fiber cimport Fiber
from lbd.core.reactor cimport Reactor
from lbd.core.stream cimport Stream
from lbd.proxy.listening cimport Listener

cdef class Connection:
    cdef public Listener listener
    cdef public Stream stream, transport
    cdef public Reactor reactor
    cdef public Fiber fiber
    cdef public bytes identity, early, scheme
    cdef public object group, proxied
    cdef public int port
