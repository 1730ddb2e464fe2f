"""The decision listener: other proxies ask for the verdict, and forward the request themselves.

It is the same `admit` as that of the data plane, answered instead of forwarded: the routes, the memory of
tokens and decisions, the reasons, the counts and the log are the same.

There is no second parser of HTTP. A question is read by `gateway.proxy.downstream`, with the same limits, and
its connection is kept by `gateway.proxy.server` and `gateway.proxy.listener`, which know neither upstreams
nor exchanges: they are given what handles one request. Another HTTP server would read the same bytes by other
rules, and framing has one judge. So this room stands above `gateway.proxy`, and a contract of import-linter
keeps it from the parts of `gateway.proxy` that forward.
"""
