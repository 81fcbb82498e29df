cimport cython

from lbd.wire.message cimport Headers, RequestHead

cdef class AccessLog:
    cdef object _append, _clock
    cdef bint _is_json
    cdef dict _met, _outcomes
    cdef long long _tick
    cdef str _stamp

    cpdef write(self, exchange)
    @cython.locals(
        tick="long long", request=RequestHead, duration=double, first_byte=double, took=str, method=bytes, host=bytes, target=bytes,
        protocol=str, strings=str, met=tuple, outcome=tuple)
    cdef bytes _json_line(self, exchange)
    @cython.locals(tick="long long", request=RequestHead, line=bytes, referer=bytes, agent=bytes, client=bytes)
    cdef bytes _combined_line(self, exchange)

@cython.locals(referer=bytes, agent=bytes)
cpdef str strings_of(Headers headers)
cpdef str seconds(double value)
