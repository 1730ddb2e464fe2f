"""Systems that keep users of their own, on the tests' Postgres, and their own means to change users.

Django, social-auth-app-django and django-allauth are the real ones. The tables of the others are the subset
of their published schemas that concerns users: `schemas/`.
"""
