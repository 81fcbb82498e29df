cimport cython

cdef class Headers:
    cdef bytes _block, _folded

    @cython.locals(at=Py_ssize_t)
    cpdef object get(self, bytes name)
    @cython.locals(at=Py_ssize_t, values=list)
    cpdef list get_all(self, bytes name)
    cpdef list items(self)
    cpdef add(self, bytes name, bytes value)
    cpdef set(self, bytes name, bytes value)
    @cython.locals(key=bytes, at=Py_ssize_t, start=Py_ssize_t, pieces=list)
    cpdef remove(self, bytes name)
    cpdef remove_all(self, frozenset names)
    cpdef bytes encode(self)
    cdef Py_ssize_t _find(self, bytes name, Py_ssize_t start) except -2
    cdef bytes _value(self, Py_ssize_t start)
    cdef _replace(self, bytes block)

cdef class RequestHead:
    cdef public bytes method, target, path, query, authority, scheme, upgrade
    cdef public Headers headers
    cdef public long long content_length
    cdef public int minor
    cdef public bint chunked, keep_alive, expect_continue, te_trailers, has_proxy_fields

cdef class ResponseHead:
    cdef public bytes reason, upgrade
    cdef public Headers headers
    cdef public long long content_length
    cdef public int status, minor
    cdef public bint chunked, keep_alive
