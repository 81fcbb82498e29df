from libc.stdint cimport int64_t

cpdef bytes frame(int kind, int flags, int64_t stream, bytes payload)
