"""The settings of a small Django project, in one of the flavours of `tests.systems.django`."""

import os
from urllib.parse import unquote, urlsplit

_FLAVOUR = os.environ["DJANGO_FLAVOUR"]
_DSN = urlsplit(os.environ["DJANGO_DSN"])

SECRET_KEY = "-"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
MIDDLEWARE: list[str] = []
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _DSN.path.removeprefix("/"),
        "USER": unquote(_DSN.username or ""),
        "PASSWORD": unquote(_DSN.password or ""),
        "HOST": _DSN.hostname,
        "PORT": _DSN.port or 5432,
    }
}
if _FLAVOUR == "django-custom":
    INSTALLED_APPS.append("tests.systems.django_project.accounts")
    AUTH_USER_MODEL = "accounts.User"
if _FLAVOUR == "django-allauth":
    INSTALLED_APPS += ["allauth", "allauth.account", "allauth.socialaccount"]
    MIDDLEWARE.append("allauth.account.middleware.AccountMiddleware")
else:
    INSTALLED_APPS.append("social_django")
