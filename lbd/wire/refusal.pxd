cdef class HeadLimits:
    cdef public Py_ssize_t head, target, fields
