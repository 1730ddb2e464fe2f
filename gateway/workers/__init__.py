"""`gateway run`: worker processes, and the supervisor that starts, watches and replaces them.

The supervisor imports everything once, binds the sockets, and forks the workers from itself. It runs no
event loop and no threads, so a fork copies no unfinished work, and a crashed worker is replaced within
milliseconds. The supervisor itself serves no requests.

Sockets. Each worker has a *slot* with its own listening sockets, bound with SO_REUSEPORT, so that the kernel
spreads the connections evenly. The supervisor owns the sockets, and the worker of a slot inherits them. When
a worker dies or is replaced, its successor accepts the connections that wait in the queue. If no successor
takes a socket over, the last worker empties its queue and closes it. All workers share one socket for the
admin port.

Configuration. On SIGHUP a second *generation* of workers starts beside the first, on the same sockets. Once
all its workers are ready, the first generation drains. If something fails before that, the second generation
ends and nothing has changed.

Metrics. The supervisor and each worker talk over a socket pair (`messages`). A worker that is scraped sends
its metrics to the supervisor. The supervisor asks the other workers for theirs, adds the counts of ended
workers, and returns the sum. So totals never decrease.
"""
