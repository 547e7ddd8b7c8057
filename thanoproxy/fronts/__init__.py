"""Several front processes on one port, with one pool of workers.

parent     owns the listening socket and the workers; starts the fronts, and replaces those that die
process    one front: a `thanoproxy.server.Server` on the parent's socket, attached to the parent's workers
front      a front as the parent sees it
orders     what the parent says to a front
cancels    what fronts say to each other
"""
