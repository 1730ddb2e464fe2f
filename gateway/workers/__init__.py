"""`gateway run`: worker processes, and the supervisor that starts, watches and replaces them.

The supervisor imports everything once, binds the sockets, and forks the workers from itself; it runs
no event loop and no threads, so a fork takes nothing half-done along, and a worker that crashed is
back after some milliseconds. It serves nothing itself.

Sockets. Each worker has a *slot* with listening sockets of its own, bound with SO_REUSEPORT, so that the
kernel spreads the connections evenly. They belong to the supervisor, and a slot's worker inherits
them: connections that wait in the queue of a worker that dies, or is replaced, are accepted by its
successor. Only when no successor takes a socket over does the last worker empty its queue and close it. The
admin port is one socket for all workers.

Configuration. On SIGHUP a second *generation* of workers starts beside the first, on the same sockets;
once all of it is ready the first drains. When something fails before that, the second ends and
nothing has changed.

Metrics. The supervisor and each worker talk over a pair of sockets (`messages`). A worker that is
scraped sends its numbers to the supervisor, which asks the others for theirs, adds what ended workers
had counted, and returns the sum; so totals never go down.
"""
