"""`SocketTransport` on uvloop, where C speaks to C: libuv calls us, and we call recv and send.

`loop.add_reader` costs a handle, a context and a call through Python for each readable socket, `socket.recv_into` and `socket.send` as
much again: 2 to 3 of about 19 us a query.  uvloop offers its libuv for exactly this (`libuv_get_loop_t_ptr`), and exports libuv's
functions, which are looked up at run time; uv_poll_t is libuv's public way to watch a foreign socket, its ABI stable in all of 1.x
(https://docs.libuv.org/en/v1.x/poll.html).  Where any of it is missing the import fails and `SocketTransport` serves.

A long stream (COPY, a large SELECT) comes in pieces of 8 KB, and to be woken for each costs us, the server and the client more than the
bytes do.  So once `STREAM` bytes have come without a pause the kernel is told to wake us for `AT_ONCE` of them (SO_RCVLOWAT, tcp(7)),
until a millisecond passes with less than that: the end of a stream waits for no longer, and nothing else waits at all.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR, errno

from thanoproxy.session.transport cimport SocketTransport

import os

from uvloop import loop as uvloop_loop

__all__ = ["PolledTransport"]

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *filename, int flags)
    void *dlsym(void *handle, const char *symbol)
    int RTLD_NOLOAD, RTLD_NOW

cdef extern from "sys/socket.h" nogil:
    ssize_t c_recv "recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)
    int MSG_NOSIGNAL, SOL_SOCKET, SO_RCVLOWAT

# From uv.h; a uv_poll_t begins with `void *data`, the rest is libuv's business.
ctypedef struct uv_poll_t:
    void *data

ctypedef void (*uv_poll_cb)(uv_poll_t *handle, int status, int events) noexcept
ctypedef void (*uv_close_cb)(uv_poll_t *handle) noexcept

cdef enum:
    UV_POLL = 8  # uv_handle_type
    UV_READABLE = 1
    UV_WRITABLE = 2
    ARRIVING = 131072
    PIECE = 8192  # what a server process sends at once (pqcomm.c: PQ_SEND_BUFFER_SIZE)
    STREAM = 16777216  # the millisecond at its end is then a few percent of it at most
    AT_ONCE = 131072  # the kernel makes room for twice as much (tcp_set_rcvlowat), so the sender goes on meanwhile; 64 and 256 KB are slower

TICK = 0.001

cdef struct Owned:
    # Before libuv's handle, whose `data` stays NULL: uvloop takes any other for a pointer to an object of its own.
    PyObject *transport
    size_t unused  # keeps the alignment that malloc gives

cdef size_t (*uv_handle_size)(int type) noexcept
cdef int (*uv_poll_init)(void *loop, uv_poll_t *handle, int fd) noexcept
cdef int (*uv_poll_start)(uv_poll_t *handle, int events, uv_poll_cb callback) noexcept
cdef int (*uv_poll_stop)(uv_poll_t *handle) noexcept
cdef void (*uv_close)(uv_poll_t *handle, uv_close_cb callback) noexcept
cdef void (*uv_unref)(uv_poll_t *handle) noexcept

cdef char _arriving[ARRIVING]


cdef void *_find(void *library, bytes name) except NULL:
    cdef void *found = dlsym(library, name)
    if found is NULL:
        raise ImportError(f"uvloop does not offer {name.decode()}")
    return found


cdef int _link() except -1:
    global uv_handle_size, uv_poll_init, uv_poll_start, uv_poll_stop, uv_close, uv_unref
    if uvloop_loop.libuv_get_version() >> 16 != 1:
        raise ImportError("not libuv 1.x")
    cdef void *library = dlopen(os.fsencode(uvloop_loop.__file__), RTLD_NOW | RTLD_NOLOAD)
    if library is NULL:
        raise ImportError("uvloop cannot be opened")
    uv_handle_size = <size_t (*)(int) noexcept>_find(library, b"uv_handle_size")
    uv_poll_init = <int (*)(void *, uv_poll_t *, int) noexcept>_find(library, b"uv_poll_init")
    uv_poll_start = <int (*)(uv_poll_t *, int, uv_poll_cb) noexcept>_find(library, b"uv_poll_start")
    uv_poll_stop = <int (*)(uv_poll_t *) noexcept>_find(library, b"uv_poll_stop")
    uv_close = <void (*)(uv_poll_t *, uv_close_cb) noexcept>_find(library, b"uv_close")
    uv_unref = <void (*)(uv_poll_t *) noexcept>_find(library, b"uv_unref")
    return 0


_link()


cdef class PolledTransport(SocketTransport):
    """`loop` must be uvloop's."""

    cdef uv_poll_t *_handle
    cdef int _events
    cdef Py_ssize_t _streamed  # bytes since the last pause
    cdef Py_ssize_t _ticked  # of them, at the last tick
    cdef bint _at_once

    def _open(self):
        cdef void *loop = PyCapsule_GetPointer(uvloop_loop.libuv_get_loop_t_ptr(self._loop), NULL)
        cdef Owned *owned = <Owned *>PyMem_RawMalloc(sizeof(Owned) + uv_handle_size(UV_POLL))
        if owned is NULL:
            raise MemoryError
        owned.transport = <PyObject *>self
        self._handle = <uv_poll_t *>(owned + 1)
        cdef int problem = uv_poll_init(loop, self._handle, self._fd)
        if problem < 0:
            self._handle = NULL
            PyMem_RawFree(owned)
            raise OSError(-problem, os.strerror(-problem))
        self._handle.data = NULL
        uv_unref(self._handle)  # a loop that is closed does not wait for us; while it runs it has handles of its own
        Py_INCREF(self)

    cpdef _watch(self, bint reading, bint writing):
        cdef int events = (UV_READABLE if reading else 0) | (UV_WRITABLE if writing else 0)
        if events == self._events or self._handle is NULL:
            return
        self._events = events
        if events:
            uv_poll_start(self._handle, events, _ready)
        else:
            uv_poll_stop(self._handle)

    cpdef _shut_down(self):
        if self._handle is not NULL:
            uv_close(self._handle, _closed)
            self._handle = NULL
        SocketTransport._shut_down(self)

    cpdef bytes _receive(self):
        cdef ssize_t size = c_recv(self._fd, _arriving, ARRIVING, 0)
        if size >= 0:
            if size >= PIECE:
                self._streamed += size
                if self._streamed >= STREAM and not self._at_once:
                    self._ticked = self._streamed
                    self._set_at_once(True)
            elif not self._at_once:
                self._streamed = 0
            return PyBytes_FromStringAndSize(_arriving, size)
        if errno == EAGAIN or errno == EINTR:
            return None
        raise OSError(errno, os.strerror(errno))

    cdef _set_at_once(self, bint at_once):
        cdef int mark = AT_ONCE if at_once else 1
        self._at_once = at_once
        setsockopt(self._fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof(mark))  # to the kernel's liking; what it refuses changes nothing
        if at_once:
            self._loop.call_later(TICK, self._tick)
        else:
            self._streamed = 0

    def _tick(self):
        if self._handle is NULL:
            return
        cdef bint at_once = self._streamed - self._ticked >= AT_ONCE
        self._ticked = self._streamed
        self._set_at_once(at_once)

    cpdef Py_ssize_t _send(self, data) except -1:
        cdef ssize_t size
        if type(data) is bytes:
            size = c_send(self._fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL)
        else:
            size = c_send(self._fd, PyByteArray_AS_STRING(data), PyByteArray_GET_SIZE(data), MSG_NOSIGNAL)
        if size >= 0:
            return size
        if errno == EAGAIN or errno == EINTR:
            return 0
        raise OSError(errno, os.strerror(errno))


cdef void _ready(uv_poll_t *handle, int status, int events) noexcept with gil:
    cdef PolledTransport transport = <PolledTransport>((<Owned *>handle) - 1).transport
    try:
        if status < 0:
            # The socket has an error pending, and libuv watches it no more.  What had arrived before is still to be read.
            transport._events = 0
            events = UV_READABLE | UV_WRITABLE
        if events & UV_READABLE and transport._reading:
            transport._read()
        if events & UV_WRITABLE and transport._unsent:
            transport._writable()
        if status < 0:
            transport._watch(transport._reading, len(transport._unsent) > 0)
    except Exception as problem:
        transport._loop.call_exception_handler({"message": "a relayed connection failed", "exception": problem, "transport": transport})
        transport.abort()


cdef void _closed(uv_poll_t *handle) noexcept with gil:
    cdef Owned *owned = (<Owned *>handle) - 1
    Py_DECREF(<object>owned.transport)
    PyMem_RawFree(owned)
