"""`FrontendWalk` with its bytes test in C: in Python it costs a slice, an upper-case copy and a method call for each mark, 0.3 us a query."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from thanoproxy.wire.framing cimport FrontendWalk, Owed

__all__ = ["SearchingWalk"]


cdef class SearchingWalk(FrontendWalk):
    """Its marks must be upper-case ASCII."""

    cdef unsigned char _first[256]

    def __init__(self, Owed owed, tuple marks):
        FrontendWalk.__init__(self, owed, marks)
        cdef bytes mark
        for i in range(256):
            self._first[i] = 0
        for mark in marks:
            self._first[mark[0]] = 1
            self._first[mark[:1].lower()[0]] = 1

    cpdef bint marked(self, bytes data, Py_ssize_t start, Py_ssize_t end) except -1:
        cdef const unsigned char *text = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t at
        for at in range(start, end):
            if self._first[text[at]] and self._begins(text + at, end - at):
                return True
        return False

    cdef bint _begins(self, const unsigned char *text, Py_ssize_t size):
        cdef bytes mark
        cdef const unsigned char *wanted
        cdef Py_ssize_t i, length
        cdef unsigned char c
        for mark in self.marks:
            length = PyBytes_GET_SIZE(mark)
            if length > size:
                continue
            wanted = <const unsigned char *>PyBytes_AS_STRING(mark)
            for i in range(length):
                c = text[i]
                if c >= 97 and c <= 122:  # a to z
                    c -= 32
                if c != wanted[i]:
                    break
            else:
                return True
        return False
