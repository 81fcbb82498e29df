cdef class Allowance:
    cdef double _most, _left, _rate, _seen

    cpdef bint take(self, double now, double count=*) except? False
    cpdef give(self, double count)
