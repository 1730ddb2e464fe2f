"""Verdicts without tokens, stores and sockets: of cases that people write, and of recorded requests.

The rules are those of live requests: the routes, `core.claims`, `core.policy`, the conditions. What came
before them (signatures, the state of users, revocations) is given.
"""
