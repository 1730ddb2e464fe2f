"""A whole gateway whose users are in the tables of another system, and are changed by that system alone."""
