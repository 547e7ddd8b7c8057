"""The engine: torch, and nothing that knows of SQL, sockets or processes."""
