"""kill -9 of every kind of process at random moments of BUILD and PREDICT, and what clients see of it.

cluster      a PostgreSQL, a proxy in front of it, and the processes that they are made of
statements   what sessions run, and whether what came of it is complete and right, or a clean error
campaign     kill after kill: sessions at work, one process killed, everybody's result judged, nothing left behind

`python -m tests.faults --kills 200 --seed 1` (or `make faults`) runs a long one.
"""
