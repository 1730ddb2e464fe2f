"""Looks at a live database, and proposes the `users.source` that fits it.

It stands beside `orphans`: both compare what an identity provider says with what a database has. What it asks
is in `stores/postgres/inspection`; how the answer is shown is in `cli/adopt`. From the bottom: `naming` knows
what columns are usually called; `fields`, `status` and `roles` find those of a table of users; `systems`
recognises well-known systems; `matching` looks for subjects; `choice` picks a system by what was found;
`proposal` and `advice` write the settings and what to know about them; `survey` does all of it in order.

Values of rows never leave this package, except the names of providers and realms, which `matching` checks.
"""
