"""The calls into the kernel that every request makes, on plain file descriptors; the twin of syscalls.py, on libc.

Going past the socket module saves about 1.5 us a request: no tuple of arguments, no GIL hand-over around a call that
cannot block. The GIL is released only where a call may wait: poll() with a timeout.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.ref cimport PyObject, Py_XDECREF
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object type)
    int _PyBytes_Resize(PyObject **, Py_ssize_t) except -1
    PyObject *PyBytes_FromStringAndSizeRaw "PyBytes_FromStringAndSize"(const char *, Py_ssize_t) except NULL
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object, object, PyObject **)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    cdef struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    ssize_t c_recv "recv"(int, void *, size_t, int)
    ssize_t c_send "send"(int, const void *, size_t, int)
    ssize_t c_sendmsg "sendmsg"(int, const msghdr *, int)
    int c_accept4 "accept4"(int, sockaddr *, socklen_t *, int)
    int MSG_NOSIGNAL, MSG_DONTWAIT, MSG_PEEK, SOCK_NONBLOCK, SOCK_CLOEXEC, AF_INET, AF_INET6

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        in_addr sin_addr
    cdef struct sockaddr_in6:
        in6_addr sin6_addr

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int, const void *, char *, socklen_t)

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    int epoll_wait(int, epoll_event *, int, int)
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int)

cdef extern from *:
    void __sync_synchronize() nogil

DEF SMALL = 16384
DEF PARTS = 16

MOST_PARTS = PARTS

# Small reads land here and are copied into bytes of the right size: cheaper than shrinking a large allocation.
cdef char scratch[SMALL]


cpdef object recv(int fd, Py_ssize_t limit):
    cdef ssize_t n
    cdef PyObject *data
    if limit <= SMALL:
        n = c_recv(fd, scratch, limit, MSG_DONTWAIT)
        if n >= 0:
            return PyBytes_FromStringAndSize(scratch, n)
        if errno == EAGAIN or errno == EINTR:
            return None
        return PyErr_SetFromErrno(OSError)
    data = PyBytes_FromStringAndSizeRaw(NULL, limit)
    n = c_recv(fd, PyBytes_AS_STRING(<object>data), limit, MSG_DONTWAIT)
    if n < 0:
        Py_XDECREF(data)
        if errno == EAGAIN or errno == EINTR:
            return None
        return PyErr_SetFromErrno(OSError)
    if n < limit:
        _PyBytes_Resize(&data, n)
    result = <object>data
    Py_XDECREF(data)
    return result


cpdef Py_ssize_t send(int fd, object data) except -1:
    cdef Py_buffer view
    cdef ssize_t n
    if type(data) is bytes:
        n = c_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL | MSG_DONTWAIT)
    else:
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        n = c_send(fd, view.buf, view.len, MSG_NOSIGNAL | MSG_DONTWAIT)
        PyBuffer_Release(&view)
    if n < 0:
        if errno == EAGAIN or errno == EINTR:
            return 0
        PyErr_SetFromErrno(OSError)
    return n


cpdef Py_ssize_t send_gathered(int fd, list parts) except -1:
    cdef iovec pieces[PARTS]
    cdef msghdr message
    cdef ssize_t n
    cdef Py_ssize_t i
    cdef Py_ssize_t count = min(len(parts), PARTS)
    cdef bytes part
    for i in range(count):
        part = parts[i]
        pieces[i].iov_base = PyBytes_AS_STRING(part)
        pieces[i].iov_len = PyBytes_GET_SIZE(part)
    message.msg_name = NULL
    message.msg_namelen = 0
    message.msg_iov = pieces
    message.msg_iovlen = count
    message.msg_control = NULL
    message.msg_controllen = 0
    message.msg_flags = 0
    n = c_sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
    if n < 0:
        if errno == EAGAIN or errno == EINTR:
            return 0
        PyErr_SetFromErrno(OSError)
    return n


cpdef bint is_readable(int fd):
    cdef char byte
    return c_recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 or errno != EAGAIN


cpdef object accept(int fd):
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    cdef char text[64]
    cdef int accepted = c_accept4(fd, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if accepted < 0:
        if errno == EAGAIN or errno == EINTR:
            return None
        return PyErr_SetFromErrno(OSError)
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &(<sockaddr_in *>&address).sin_addr, text, sizeof(text))
    elif address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &(<sockaddr_in6 *>&address).sin6_addr, text, sizeof(text))
    else:
        return accepted, "unix:"
    return accepted, text.decode("ascii")


cpdef fence():
    __sync_synchronize()


cpdef bint resume(object coroutine) except -1:
    cdef PyObject *value = NULL
    cdef PySendResult result = PyIter_Send(coroutine, None, &value)
    if result == PYGEN_ERROR:
        return -1
    what = <object>value
    Py_XDECREF(value)
    if result == PYGEN_NEXT and what is not None:
        coroutine.close()  # now, while whatever it has entered is still there to be left
        raise RuntimeError(f"a fiber awaits {what!r}: use Reactor.in_trio() for what is trio's")
    return result == PYGEN_RETURN


cdef class Poller:
    """An epoll descriptor and the events of its last poll()."""

    def __cinit__(self, int batch):
        self._batch = batch
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            PyErr_SetFromErrno(OSError)
        self._events = <epoll_event *>calloc(batch, sizeof(epoll_event))

    def __dealloc__(self):
        free(self._events)
        self.close()

    cpdef int fileno(self):
        return self._epoll

    cpdef add(self, int fd, uint32_t events):
        cdef epoll_event event
        event.events = events
        event.data.fd = fd
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)

    cpdef remove(self, int fd):
        cdef epoll_event event  # kernels before 2.6.9 look at it
        if epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)

    cpdef int poll(self, int milliseconds) except -1:
        cdef int n
        if milliseconds == 0:
            n = epoll_wait(self._epoll, self._events, self._batch, 0)
        else:
            with nogil:
                n = epoll_wait(self._epoll, self._events, self._batch, milliseconds)
        if n < 0:
            if errno == EINTR:
                return 0
            PyErr_SetFromErrno(OSError)
        return n

    cpdef take(self, int i):
        self.fd = self._events[i].data.fd
        self.events = self._events[i].events

    cpdef close(self):
        if self._epoll >= 0:
            c_close(self._epoll)
            self._epoll = -1
