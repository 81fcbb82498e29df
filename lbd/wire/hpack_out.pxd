cimport cython

cdef Py_ssize_t LONGEST, MOST
cdef dict WHOLE, NAMES, STARTS, INDEXED, STATUSES
cdef list LENGTHS

cpdef bytes encoded_integer(long long value, int prefix, int first)
cdef bytes encoded_name(bytes name, int first)
@cython.locals(pieces=list, pair=tuple, name=bytes, value=bytes, ready=bytes, size=Py_ssize_t)
cpdef bytes encoded_fields(fields)

cdef class LineEncoder:
    cdef dict _known

    @cython.locals(known=dict, pieces=list, line=bytes, ready=bytes)
    cpdef bytes encode(self, bytes block)
    @cython.locals(name=bytes, encoded=bytes)
    cdef bytes _encoded(self, bytes line)

@cython.locals(ready=bytes)
cpdef bytes encoded_status(int status)
