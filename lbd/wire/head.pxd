from lbd.wire.message cimport RequestHead, ResponseHead
from lbd.wire.refusal cimport HeadLimits

cpdef Py_ssize_t find_head_end(bytes buffer, Py_ssize_t searched, HeadLimits limits) except -2
cpdef RequestHead parse_request(bytes buffer, Py_ssize_t start, Py_ssize_t end, HeadLimits limits)
cpdef ResponseHead parse_response(bytes buffer, Py_ssize_t start, Py_ssize_t end, HeadLimits limits)
