# Types for Cython; the source is transport.py, which does not know of this file.
from thanoproxy.wire.framing cimport Into, Sink

cdef Py_ssize_t _HIGH, _LOW

cdef class SocketTransport(Sink):
    cdef object _loop
    cdef object _sock
    cdef int _fd
    cdef object _protocol
    cdef bytearray _unsent
    cdef bint _full
    cdef bint _reading
    cdef bint _closing
    cdef bint _eof_wanted
    cdef bint _lost
    cdef public Sink sink

    cpdef _watch(self, bint reading, bint writing)
    cpdef bytes _receive(self)
    cpdef Py_ssize_t _send(self, data) except -1
    cpdef _shut_down(self)
    cpdef _readable(self)
    cpdef bint _read(self) except -1
    cpdef _writable(self)
    cpdef write(self, bytes data)
