# Fields and arguments of forwarding.py.

cdef class Forwarding:
    cdef readonly object policy
    cdef readonly tuple networks
    cdef readonly bytes id_prefix
    cdef public long long count
    cdef bint _trusts_unix
    cdef bint _trusts_anyone
    cdef readonly dict _remembered

    cpdef ConnectionForwarding for_connection(self, str peer, bytes scheme, int port, int minor=*, bytes identity=*)
    cpdef bint is_trusted(self, str peer)


cdef class ConnectionForwarding:
    cdef readonly Forwarding _forwarding
    cdef bytes _host_label
    cdef bytes _id_label
    cdef bytes _identity
    cdef bint _is_trusted
    cdef int _minor
    cdef bytes _ready
    cdef tuple _scheme_port
    cdef readonly str peer
    cdef readonly bytes request_id
    cdef readonly tuple response_fields

    cpdef str client(self, request)
    cpdef bytes fields(self, request)
    cdef bytes _fields_with_care(self, request)
    cdef bytes _made(self, bytes chain, set present)
    cdef bytes _id_line(self, request)
    cdef bytes _next_id(self)
