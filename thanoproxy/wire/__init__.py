"""PostgreSQL's bytes, without I/O: where messages begin and end, what they say, and which replies are still owed.

Source for every layout: https://www.postgresql.org/docs/18/protocol-message-formats.html
"""
