cimport cython

from lbd.wire.http2_fields cimport Field
from lbd.wire.message cimport Headers, RequestHead, ResponseHead

cdef int METHOD, SCHEME, PATH, AUTHORITY, PROTOCOL, STATUS, UNKNOWN, PLACES
cdef int REQUEST_NOTED, RESPONSE_NOTED, HANDED_ON, NOT_TRAILER, FORBIDDEN
cdef dict PHRASES, DEFAULT_PORTS

@cython.locals(places=list, rest=tuple, head=RequestHead, noted=dict)
cpdef RequestHead request_head(tuple fields, bint has_ended, limits)
@cython.locals(head=RequestHead, field=Field)
cpdef RequestHead refused_head(tuple fields)
@cython.locals(places=list, rest=tuple, head=ResponseHead, noted=dict, named=Field, status=bytes)
cpdef ResponseHead response_head(tuple fields, bint has_ended, limits)
@cython.locals(first=Field, field=Field, kept=list)
cpdef Headers trailers_of(tuple fields, limits)
@cython.locals(fields=list)
cpdef list request_fields(RequestHead head, bytes target, bytes authority)
@cython.locals(headers=Headers)
cpdef bytes request_lines(RequestHead head)
@cython.locals(count=Py_ssize_t, field=Field)
cdef tuple parted(tuple fields, list places)
cdef bytes value_of(Field field)
@cython.locals(method=Field, path=Field)
cdef check_request(RequestHead head, list places)
@cython.locals(field=Field, fresh=list)
cdef check_fields(tuple fields)
@cython.locals(field=Field, names=bytes, values=bytes, between=Py_ssize_t)
cdef check_bytes(list fields)
@cython.locals(field=Field, size=Py_ssize_t)
cdef Py_ssize_t header_list_size(tuple fields) except -1
@cython.locals(field=Field, lines=list)
cdef Headers sorted_out(tuple fields, int mark, dict noted)
cdef set_authority(RequestHead head, Field named, list hosts)
cdef set_length(RequestHead head, dict noted, bint has_ended)
@cython.locals(lengths=list)
cdef long long announced(dict noted) except? -1
