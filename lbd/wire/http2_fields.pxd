cdef Py_ssize_t OVERHEAD
cdef dict PLACES, MARKS

cdef class Field:
    cdef readonly bytes name, value
    cdef readonly Py_ssize_t size
    cdef readonly int marks, place
    cdef public bint is_checked
    cdef public bytes line

    cpdef bytes as_line(self)
