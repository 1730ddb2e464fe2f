"""Verdicts without tokens, stores and sockets: of cases that people write, and of recorded requests.

The rules are those of live requests: routes, `core.tokens.claims`, `core.policy`, conditions. What came
before them (signatures, the state of users, revocations) is given.
"""
