cdef Py_ssize_t SMALL

cpdef gather(chunks, bytes data)
