"""Limits: how many requests a user, a tenant, an issuer, a client, a route or a claim may make.

All workers of all gateways share one budget in Redis. A worker takes *leases* of tokens, spends them without
asking, and gives back what it does not need. docs/limits.md has the bound, and its proof.

Pure: `rules` (the limits), `subjects` (whom a request counts for), `periods` (days and months), `bucket`
(what one worker holds of one subject's budget), `fields` (the header fields) and `ledger` (what Redis is
asked). `budget` has the buckets of one limit; `lease_manager` has the budgets of a worker, and asks Redis;
`limiter` is wrapped around what decides on requests.
"""
