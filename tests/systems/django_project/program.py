"""A Django project that does what it is told: a JSON command on each line of stdin, an answer on stdout.

It runs as `python -m tests.systems.django_project.program`, with DJANGO_FLAVOUR and DJANGO_DSN in its
environment. All that it does to users, it does with Django's ORM.
"""

import json
import os
import sys

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.systems.django_project.settings"
django.setup()

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import transaction

_ALLAUTH = os.environ["DJANGO_FLAVOUR"] == "django-allauth"
_PROVIDER = "oidc"

User = get_user_model()


def _migrate(_):
    call_command("migrate", verbosity=0, skip_checks=True)


@transaction.atomic
def _add(command):
    users = User.objects.bulk_create(
        User(username=name, email=f"{name}@example.com", first_name=name.title(), password="!")
        for name in command["names"]
    )
    if _ALLAUTH:
        from allauth.socialaccount.models import SocialAccount as Account
    else:
        from social_django.models import UserSocialAuth as Account
    Account.objects.bulk_create(
        Account(user=user, provider=_PROVIDER, uid=uid)
        for user, uid in zip(users, command["subjects"], strict=True)
    )
    return [str(user.pk) for user in users]


def _set_active(command):
    user = User.objects.get(pk=command["id"])
    user.is_active = command["active"]
    user.save()


def _grant(command):
    group, _ = Group.objects.get_or_create(name=command["role"])
    User.objects.get(pk=command["id"]).groups.add(group)


def _withdraw(command):
    User.objects.get(pk=command["id"]).groups.remove(Group.objects.get(name=command["role"]))


def _delete(command):
    User.objects.get(pk=command["id"]).delete()


_COMMANDS = {
    "migrate": _migrate,
    "add": _add,
    "set_active": _set_active,
    "grant": _grant,
    "withdraw": _withdraw,
    "delete": _delete,
}

if __name__ == "__main__":
    for line in sys.stdin:
        command = json.loads(line)
        answer = _COMMANDS[command["do"]](command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
