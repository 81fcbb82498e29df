cimport cython

from lbd.wire.http2_fields cimport Field
from lbd.wire.huffman cimport decode_huffman

cdef Py_ssize_t FIELDS, LONGEST, MOST, TABLE, STATICS
cdef int RESIZES, DIGITS
cdef list STATIC

cdef class FieldDecoder:
    cdef Py_ssize_t _limit, _size, _most, _at, _kept
    cdef list _table
    cdef dict _known
    cdef bytes _block
    cdef bint _has_changed

    @cython.locals(fields=tuple)
    cpdef tuple decode(self, bytes block)
    @cython.locals(block=bytes, end=Py_ssize_t, left=Py_ssize_t, fields=list, resizes=int, first=int, field=Field)
    cdef list _fields(self)
    @cython.locals(block=bytes, at=Py_ssize_t, end=Py_ssize_t, value="long long", digit="long long", shift=int)
    cdef long long _number(self, int mask) except -1
    cdef Field _entry(self, long long index)
    @cython.locals(index="long long", name=bytes)
    cdef Field _literal(self, int mask)
    @cython.locals(start=Py_ssize_t, size="long long", at=Py_ssize_t, string=bytes)
    cdef bytes _string(self)
    cdef _add(self, Field field)
    cdef _resize(self, long long size)
    @cython.locals(field=Field)
    cdef _shrink(self)
