"""HTTP/1 heads: one pass over the bytes for the plain cases; everything else is for strict.py, refusals above all.

A head is plain when its target is in origin-form, no field that frames or routes is repeated or unusual, and nothing is wrong
with it. Whatever the scanner below takes, strict.py takes with the same result (tests/wire/test_promises.py); it never refuses.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

from lbd.wire.message cimport Headers, RequestHead, ResponseHead
from lbd.wire.refusal cimport HeadLimits

from lbd.wire import strict

__all__ = ["find_head_end", "parse_request", "parse_response"]

ctypedef const unsigned char *Text

cdef enum:
    MOST_PIECES = 8

cdef enum Kind:
    PLAIN, HOST, LENGTH, CODING, CONNECTION, DROPPED, CLAIM, UNUSUAL

cdef enum:  # classes of bytes
    TOKEN = 1
    TEXT = 2
    TARGET = 4
    NAME = 8  # of a host, as nearly everybody's is

cdef struct Fields:
    Text pieces[MOST_PIECES]  # what is handed on: the lines between those that are cut out
    Py_ssize_t sizes[MOST_PIECES]
    int count
    Text host
    Py_ssize_t host_size
    long long length
    bint chunked
    bint says_close
    bint says_keep_alive
    bint has_claims

cdef unsigned char CLASS[256]


cdef void fill_classes():
    cdef int c
    for c in range(256):
        CLASS[c] = 0
        if c == 9 or 0x20 <= c < 0x7f or c >= 0x80:
            CLASS[c] |= TEXT
        if 0x21 <= c < 0x7f and c != 35:  # no "#"
            CLASS[c] |= TARGET
    for c in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~-":
        CLASS[c] |= TOKEN | NAME
    for c in b"!#$%&'*+^`|":
        CLASS[c] |= TOKEN


fill_classes()

cdef bytes GET = b"GET"
cdef bytes POST = b"POST"
cdef bytes HTTP = b"http"
cdef bytes OK = b"OK"
cdef bytes NOTHING = b""


cpdef Py_ssize_t find_head_end(bytes buffer, Py_ssize_t searched, HeadLimits limits) except -2:
    cdef Text base = <Text>PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(buffer)
    cdef Py_ssize_t at = searched + 1  # of the line feed before the empty line
    cdef Text feed
    while at + 2 < size:
        feed = <Text>memchr(base + at, 10, size - at - 2)
        if feed == NULL:
            break
        at = feed - base + 1
        if feed[1] == 13 and feed[2] == 10 and feed[-1] == 13 and at + 2 <= limits.head:
            return at + 2
    return strict.find_head_end(buffer, searched, limits)


cpdef RequestHead parse_request(bytes buffer, Py_ssize_t start, Py_ssize_t end, HeadLimits limits):
    cdef RequestHead head = scanned_request(buffer, start, end, limits)
    return strict.parse_request(buffer, start, end, limits) if head is None else head


cpdef ResponseHead parse_response(bytes buffer, Py_ssize_t start, Py_ssize_t end, HeadLimits limits):
    cdef ResponseHead head = scanned_response(buffer, start, end, limits)
    return strict.parse_response(buffer, start, end, limits) if head is None else head


cdef inline bytes text(Text start, Py_ssize_t size):
    return PyBytes_FromStringAndSize(<const char *>start, size)


cdef RequestHead scanned_request(bytes buffer, Py_ssize_t start, Py_ssize_t end, HeadLimits limits):
    """None: not plain."""
    cdef Text p = <Text>PyBytes_AS_STRING(buffer) + start
    cdef Text stop = p + (end - start)
    cdef Fields fields
    cdef RequestHead head
    if start < 0 or end > PyBytes_GET_SIZE(buffer) or end - start < 18 or stop[-2] != 13 or stop[-1] != 10:
        return None  # from here on every loop ends at the last line's CR at the latest
    head = RequestHead.__new__(RequestHead)
    p = scan_request_line(p, stop, limits.target, head)
    if p == NULL or not scan_fields(p, stop, True, limits.fields, &fields) or not is_framed(&fields, head.minor):
        return None
    if fields.host != NULL:
        head.authority = plain_authority(fields.host, fields.host_size)
        if head.authority is None:
            return None
    elif head.minor > 0:
        return None
    else:
        head.authority = NOTHING
    head.scheme = HTTP
    head.headers = joined(&fields)
    head.content_length = fields.length
    head.chunked = fields.chunked
    head.keep_alive = not fields.says_close and (head.minor > 0 or fields.says_keep_alive)
    head.expect_continue = False
    head.upgrade = NOTHING
    head.te_trailers = False
    head.has_proxy_fields = fields.has_claims
    return head


cdef Text scan_request_line(Text p, Text stop, Py_ssize_t longest, RequestHead head):
    """Where the fields begin; NULL: not plain."""
    cdef Text first = p
    cdef Text question = NULL
    cdef Py_ssize_t size
    while CLASS[p[0]] & TOKEN:
        p += 1
    size = p - first
    if size == 0 or size > 32 or p[0] != 32 or p[1] != 47 or (size == 7 and memcmp(first, b"CONNECT", 7) == 0):
        return NULL
    if size == 3 and memcmp(first, b"GET", 3) == 0:
        head.method = GET
    elif size == 4 and memcmp(first, b"POST", 4) == 0:
        head.method = POST
    else:
        head.method = text(first, size)
    p += 1
    first = p
    while CLASS[p[0]] & TARGET:
        if p[0] == 63 and question == NULL:
            question = p
        p += 1
    if p - first > longest or stop - p < 13 or memcmp(p, b" HTTP/1.", 8) != 0 or p[9] != 13 or p[10] != 10:
        return NULL
    if p[8] != 48 and p[8] != 49:
        return NULL
    head.minor = p[8] - 48
    head.target = text(first, p - first)
    head.path = head.target if question == NULL else text(first, question - first)
    head.query = NOTHING if question == NULL else text(question + 1, p - question - 1)
    return p + 11


cdef ResponseHead scanned_response(bytes buffer, Py_ssize_t start, Py_ssize_t end, HeadLimits limits):
    """None: not plain."""
    cdef Text p = <Text>PyBytes_AS_STRING(buffer) + start
    cdef Text stop = p + (end - start)
    cdef Text first
    cdef Fields fields
    cdef ResponseHead head
    cdef int i
    if start < 0 or end > PyBytes_GET_SIZE(buffer) or end - start < 17 or stop[-2] != 13 or stop[-1] != 10:
        return None
    if memcmp(p, b"HTTP/1.", 7) != 0 or (p[7] != 48 and p[7] != 49) or p[8] != 32 or p[9] == 48 or p[12] != 32:
        return None
    head = ResponseHead.__new__(ResponseHead)
    head.minor = p[7] - 48
    head.status = 0
    for i in range(9, 12):
        if not 48 <= p[i] <= 57:
            return None
        head.status = head.status * 10 + (p[i] - 48)
    p += 13
    first = p
    while CLASS[p[0]] & TEXT:
        p += 1
    if p[0] != 13 or p[1] != 10 or p + 2 >= stop:
        return None
    head.reason = OK if p - first == 2 and first[0] == 79 and first[1] == 75 else text(first, p - first)
    if not scan_fields(p + 2, stop, False, limits.fields, &fields) or not is_framed(&fields, head.minor):
        return None
    head.headers = joined(&fields)
    head.content_length = fields.length
    head.chunked = fields.chunked
    head.keep_alive = not fields.says_close and (head.minor > 0 or fields.says_keep_alive)
    head.upgrade = NOTHING
    return head


cdef inline bint is_framed(Fields *fields, int minor) noexcept:
    return not fields.chunked or (fields.length < 0 and minor > 0)


cdef bint scan_fields(Text p, Text stop, bint is_request, Py_ssize_t most, Fields *fields) noexcept:
    """All lines up to the empty one, which must end at `stop`. False: not plain."""
    cdef Text kept = p  # the beginning of the piece at hand
    cdef Text line
    cdef Text value
    cdef Text colon
    cdef Py_ssize_t lines = 0
    cdef Kind kind
    fields.count = 0
    fields.host = NULL
    fields.length = -1
    fields.chunked = fields.says_close = fields.says_keep_alive = fields.has_claims = False
    while p[0] != 13:
        line = p
        while CLASS[p[0]] & TOKEN:
            p += 1
        colon = p
        if colon == line or colon[0] != 58:
            return False
        p += 1
        while p[0] == 32 or p[0] == 9:
            p += 1
        value = p
        while CLASS[p[0]] & TEXT:
            p += 1
        if p[0] != 13 or p[1] != 10 or p + 2 >= stop:
            return False
        p += 2
        lines += 1
        kind = kind_of(line, colon - line, is_request)
        if kind == CLAIM:
            fields.has_claims = True
        elif kind != PLAIN:
            if not take(fields, kind, value, p - 2) or not keep(fields, kept, line):
                return False
            kept = p
    return lines <= most and p + 2 == stop and keep(fields, kept, p)


cdef inline bint keep(Fields *fields, Text start, Text end) noexcept:
    """Adds a piece; False: there are too many."""
    if start == end:
        return True
    if fields.count == MOST_PIECES:
        return False
    fields.pieces[fields.count] = start
    fields.sizes[fields.count] = end - start
    fields.count += 1
    return True


cdef Headers joined(Fields *fields):
    cdef Headers headers = Headers.__new__(Headers)
    cdef Py_ssize_t total = 0
    cdef int i
    cdef char *to
    for i in range(fields.count):
        total += fields.sizes[i]
    headers._block = PyBytes_FromStringAndSize(NULL, total)
    headers._folded = NOTHING
    to = PyBytes_AS_STRING(headers._block)
    for i in range(fields.count):
        memcpy(to, fields.pieces[i], fields.sizes[i])
        to += fields.sizes[i]
    return headers


cdef bint take(Fields *fields, Kind kind, Text value, Text end) noexcept:
    """A field that frames, routes or is not handed on. False: repeated, or not as usual."""
    cdef Py_ssize_t i, size
    while end > value and (end[-1] == 32 or end[-1] == 9):
        end -= 1
    size = end - value
    if kind == DROPPED:
        return True
    if kind == HOST:
        if fields.host != NULL:
            return False
        fields.host = value
        fields.host_size = size
        return True
    if kind == LENGTH:
        if fields.length >= 0 or size == 0 or size > 18:
            return False
        fields.length = 0
        for i in range(size):
            if not 48 <= value[i] <= 57:
                return False
            fields.length = fields.length * 10 + (value[i] - 48)
        return True
    if kind == CODING:
        if fields.chunked or size != 7 or not same(value, b"chunked", 7):
            return False
        fields.chunked = True
        return True
    if kind == CONNECTION and not fields.says_close and not fields.says_keep_alive:
        fields.says_keep_alive = size == 10 and same(value, b"keep-alive", 10)
        fields.says_close = size == 5 and same(value, b"close", 5)
        return fields.says_keep_alive or fields.says_close
    return False


cdef bytes plain_authority(Text host, Py_ssize_t size):
    """A name or an IPv4 address, perhaps a port, in lower case; None for anything else."""
    cdef Py_ssize_t i = 0, digits
    cdef bytes authority
    cdef unsigned char *to
    while i < size and CLASS[host[i]] & NAME:
        i += 1
    if i == 0:
        return None
    if i < size:
        digits = size - i - 1
        if host[i] != 58 or digits < 1 or digits > 5:
            return None
        while i + 1 < size:
            i += 1
            if not 48 <= host[i] <= 57:
                return None
    authority = PyBytes_FromStringAndSize(NULL, size)  # with a text of one byte it would not be ours alone to write to
    to = <unsigned char *>PyBytes_AS_STRING(authority)
    for i in range(size):
        to[i] = host[i] | 32 if 65 <= host[i] <= 90 else host[i]
    return authority


cdef inline bint same(Text given, const char *wanted, Py_ssize_t size) noexcept:
    """Is it `wanted`, which is letters in lower case and hyphens? Of the bytes of a token only those letters' capitals are equal too."""
    cdef Py_ssize_t i
    for i in range(size):
        if (given[i] | 32) != <unsigned char>wanted[i]:
            return False
    return True


cdef inline bint alike(Text given, const char *wanted, Py_ssize_t size) noexcept:
    """As same(), and underscores are hyphens (LOOKALIKES in grammar.py)."""
    cdef Py_ssize_t i
    for i in range(size):
        if (given[i] | 32) != <unsigned char>wanted[i] and (given[i] != 95 or wanted[i] != 45):
            return False
    return True


cdef Kind kind_of(Text name, Py_ssize_t size, bint is_request) noexcept:
    """As HOP_BY_HOP and CLAIMS in grammar.py, and Host and Expect in requests."""
    if size == 10:
        if same(name, b"connection", 10):
            return CONNECTION
        return DROPPED if same(name, b"keep-alive", 10) else PLAIN
    if size == 14:
        if same(name, b"content-length", 14):
            return LENGTH
        return CLAIM if is_request and alike(name, b"content-length", 14) else PLAIN
    if size == 17:
        if same(name, b"transfer-encoding", 17):
            return CODING
        if not is_request:
            return PLAIN
        if alike(name, b"transfer-encoding", 17):
            return CLAIM
        if alike(name, b"x-forwarded-proto", 17) or alike(name, b"x-client-cert-san", 17):
            return CLAIM
        return CLAIM if alike(name, b"x-request-attempt", 17) else PLAIN
    if size == 16:
        if same(name, b"proxy-connection", 16):
            return DROPPED
        return CLAIM if is_request and (alike(name, b"x-forwarded-host", 16) or alike(name, b"x-forwarded-port", 16)) else PLAIN
    if size == 7:
        return DROPPED if same(name, b"upgrade", 7) else PLAIN
    if size == 19:
        return DROPPED if same(name, b"proxy-authorization", 19) else PLAIN
    if size == 18:
        return DROPPED if same(name, b"proxy-authenticate", 18) else PLAIN
    if size == 25 and same(name, b"proxy-authentication-info", 25):
        return DROPPED
    if size == 2 and same(name, b"te", 2):
        return UNUSUAL if is_request else DROPPED
    if not is_request:
        return PLAIN
    if size == 4:
        return HOST if same(name, b"host", 4) else PLAIN
    if size == 6:
        return UNUSUAL if same(name, b"expect", 6) else PLAIN
    if size == 3:
        return CLAIM if alike(name, b"via", 3) else PLAIN
    if size == 9:
        return CLAIM if alike(name, b"forwarded", 9) or alike(name, b"x-real-ip", 9) else PLAIN
    if size == 12:
        return CLAIM if alike(name, b"x-request-id", 12) else PLAIN
    if size == 15:
        return CLAIM if alike(name, b"x-forwarded-for", 15) else PLAIN
    if size == 20:
        return CLAIM if alike(name, b"x-client-cert-verify", 20) else PLAIN
    if size == 21:
        return CLAIM if alike(name, b"x-client-cert-subject", 21) else PLAIN
    if size == 25:
        return CLAIM if alike(name, b"x-client-cert-fingerprint", 25) else PLAIN
    return PLAIN
