"""Expressions in the configuration, in CEL (https://cel.dev): what they say, and what they are worth.

`syntax` reads an expression into a tree, `words` has the names and functions that it may use, `analysis`
finds its mistakes and what it reads, and `expression` evaluates it. Only `engine` knows the CEL library.
"""
