cimport cython
from libc.stdint cimport uint32_t

from lbd.core.reactor cimport Pollable
from lbd.core.stream cimport Stream

cdef Py_ssize_t RECORD, CHUNK, HEADER, LONGEST, SILENT
cdef uint32_t EPOLLIN, EPOLLOUT

cdef class SessionKeeper:
    cdef public object session

cdef class TlsStream(Stream):
    cdef readonly object ssl
    cdef Stream _raw
    cdef object _incoming, _outgoing, _unsent
    cdef bytes _ahead, _plain
    cdef Py_ssize_t _at, _missing
    cdef SessionKeeper _keeper
    cdef Py_ssize_t _owed
    cdef bint _is_part_read, _is_open, _is_broken, _is_ending, _is_shut, _has_ended, _was_told

    @cython.locals(raw=Stream)
    cpdef happened(self, uint32_t events)
    cdef bint _push(self) except? False
    cdef bint _shake(self) except? False
    cdef _failed(self, error)
    cpdef object recv(self, Py_ssize_t limit)
    cdef object _next(self, Py_ssize_t limit)
    @cython.locals(room=Py_ssize_t)
    cdef object _join(self, first, Py_ssize_t limit)
    @cython.locals(left=Py_ssize_t, taken=Py_ssize_t)
    cdef bint _feed(self, Py_ssize_t limit) except? False
    @cython.locals(ahead=bytes, at=Py_ssize_t, size=Py_ssize_t)
    cdef Py_ssize_t _record_size(self, Py_ssize_t left) except -1
    @cython.locals(left=Py_ssize_t)
    cdef bint _has_whole_record(self) except? True
    cdef object _read(self, Py_ssize_t size)
    cpdef bint ended_whole(self) except? False
    @cython.locals(size=Py_ssize_t, sent=Py_ssize_t)
    cpdef Py_ssize_t send(self, object data) except -1
    cpdef Py_ssize_t send_gathered(self, list parts) except -1
    @cython.locals(size=Py_ssize_t, written=Py_ssize_t, records=list)
    cdef list _encrypt(self, data)
    @cython.locals(sent=Py_ssize_t)
    cdef bint _send_encrypted(self, list records) except? False
    @cython.locals(sent=Py_ssize_t)
    cdef bint _flush(self) except? False
    cdef _last_words(self, error)
    cpdef send_eof(self)
    cdef _say_goodbye(self)
    cpdef bint is_fresh(self)
    cpdef bint is_fresh_now(self)
    cdef bint _is_silent(self)
    cpdef close(self)
    cpdef reset(self)
