# Types for Cython; the source is transport.py, which does not know of this file.
cimport cython

cdef Py_ssize_t _HIGH, _LOW

cdef class SocketTransport:
    cdef object _loop
    cdef object _sock
    cdef object _fd
    cdef object _protocol
    cdef object _recv_into
    cdef object _send
    cdef bytearray _unsent
    cdef bint _full
    cdef bint _reading
    cdef bint _closing
    cdef bint _eof_wanted
    cdef bint _lost
    cdef public object receive

    cpdef write(self, bytes data)
    cpdef _readable(self)
    cpdef _writable(self)
