cimport cython

from lbd.wire.message cimport Headers, RequestHead, ResponseHead

@cython.locals(block=bytes)
cpdef bytes encode_request(RequestHead head, bytes target, bytes host, int framing, bytes extra)
@cython.locals(status=int, length="long long", lines=bytes, first=bytes)
cpdef bytes encode_response(ResponseHead head, int framing, int minor, bytes connection, bytes extra)
cpdef bytes encode_informational(ResponseHead head)
cpdef bytes encode_chunk(bytes data)
cpdef bytes encode_last_chunk(Headers trailers)
