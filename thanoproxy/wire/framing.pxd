# Types for Cython; the source is framing.py, which does not know of this file.
cimport cython

cdef int QUERY, PARSE, SYNC, FUNCTION_CALL, COPY_DONE, COPY_FAIL, COPY_DATA, CLOSE, LOGIN
cdef int READY, PARAMETER_STATUS, COPY_IN, COPY_BOTH, KEY_DATA, CLOSE_COMPLETE, ERROR

cdef class Marks:
    cdef public tuple words
    cdef public int edition

    cpdef change(self, tuple words)
    @cython.locals(upper=bytes, word=bytes)
    cpdef bint found(self, bytes data, Py_ssize_t start, Py_ssize_t end) except -1

cdef class Owed:
    cdef public bytearray ready
    cdef public Py_ssize_t unsynced
    cdef public Py_ssize_t closes
    cdef public Py_ssize_t closes_done
    cdef public bint failed
    cdef public bint in_copy

    cpdef ask(self, int kind)
    cpdef answered(self)
    cpdef end_copy(self)

cdef class Walk:
    cdef public bint candidate

    cpdef Py_ssize_t walk(self, bytes data) except -1

cdef class FrontendWalk(Walk):
    cdef public Owed owed
    cdef public Marks marks
    cdef public object concerns
    cdef public Py_ssize_t skip
    cdef public bint blind

    @cython.locals(size=Py_ssize_t, pos=Py_ssize_t, end=Py_ssize_t, length=Py_ssize_t, kind=int, owed=Owed)
    cpdef Py_ssize_t walk(self, bytes data) except -1

cdef class BackendWalk(Walk):
    cdef public Owed owed
    cdef public object on_parameter
    cdef public object on_key_data
    cdef public Py_ssize_t skip
    cdef public int status
    cdef public bint blind

    @cython.locals(size=Py_ssize_t, pos=Py_ssize_t, end=Py_ssize_t, length=Py_ssize_t, kind=int)
    cpdef Py_ssize_t walk(self, bytes data) except -1
    cpdef note(self, int kind, bytes body)

cdef class Sink:
    cpdef write(self, bytes data)

cdef class Into(Sink):
    cdef public object take

    cpdef write(self, bytes data)

cdef class Flow(Sink):
    cdef public Walk walk
    cdef public object stopped
    cdef public bytes rest
    cdef public Sink sink

    @cython.locals(going=Py_ssize_t)
    cpdef write(self, bytes data)
