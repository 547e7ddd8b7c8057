"""Sessions at the same time, in the manner of PostgreSQL's own isolation tests (src/test/isolation/README).

A file in `specs/` names sessions, the steps each can take, and orders to take them in; what is seen must be what `expected/` has.
A step that waits for another session is shown as `<waiting ...>`, and goes on where it is shown again.  Every session is a
connection through the proxy.
"""
