"""PostgreSQL's own test suites, and a driver's, run directly and through the proxy: `make conformance`, `make conformance-asyncpg`.

Nothing here is a pytest test: the suites need the distribution's packages and a compiler, and take minutes.
"""
