from libc.stdint cimport uint32_t

cdef extern from "<sys/epoll.h>" nogil:
    cdef union epoll_data:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data data

cpdef object recv(int fd, Py_ssize_t limit)
cpdef Py_ssize_t send(int fd, object data) except -1
cpdef Py_ssize_t send_gathered(int fd, list parts) except -1
cpdef bint is_readable(int fd)
cpdef object accept(int fd)
cpdef fence()
cpdef bint resume(object coroutine) except -1

cdef class Poller:
    cdef int _epoll
    cdef int _batch
    cdef epoll_event *_events
    cdef readonly int fd
    cdef readonly uint32_t events

    cpdef int fileno(self)
    cpdef add(self, int fd, uint32_t events)
    cpdef remove(self, int fd)
    cpdef int poll(self, int milliseconds) except -1
    cpdef take(self, int i)
    cpdef close(self)
