"""Settings of Django and Celery: what differs from place to place comes from the environment.

`.env.example` lists the variables. The names are those of
https://docs.djangoproject.com/en/stable/ref/settings/.
"""

import os
import ssl
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
from celery.schedules import crontab
from dotenv import load_dotenv
from environs import FileAwareEnv

from .runtime import web

BASE_DIR = Path(__file__).resolve().parent.parent

if "PYTEST_VERSION" not in os.environ:  # tests have servers of their own
    load_dotenv(BASE_DIR / ".env")
env = FileAwareEnv(strip_whitespace=True)

# --- Security ---------------------------------------------------------------------------------

DEBUG = env.bool("DEBUG", default=True)
# A fixed key keeps you signed in when the development server restarts.
SECRET_KEY = env.str("SECRET_KEY", "django-insecure-for-development-only" if DEBUG else "")
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=[])
if DEBUG:
    # `.env` may name the hosts of production.
    ALLOWED_HOSTS += [".localhost", "127.0.0.1", "[::1]"]
if not DEBUG and not SECRET_KEY:
    sys.exit("SECRET_KEY is not set: production (DEBUG=0) needs one of 50 random characters.")
if not DEBUG:
    # The proxy in front ends TLS and says so in this header.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
    SECURE_REDIRECT_EXEMPT = ["^health/$"]  # asked for from inside
    # Browsers use only HTTPS for an hour after each visit. Make it a year once nothing needs HTTP.
    SECURE_HSTS_SECONDS = 3600
    # Whether that includes subdomains and lists of browsers is up to the owner of the domain.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# --- Application ------------------------------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
#% if cookiecutter.result_backend == "database"
    "django_celery_results",
#% endif
    "jobs",
]
MIDDLEWARE = [
#=     "{{ cookiecutter.project_slug }}.runtime.web.log_requests",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
#= ROOT_URLCONF = "{{ cookiecutter.project_slug }}.urls"
#= WSGI_APPLICATION = "{{ cookiecutter.project_slug }}.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "static/"
if not DEBUG:
    # The web server serves what `collectstatic` gathered, compressed, under names to be cached.
    STATIC_ROOT = BASE_DIR / "staticfiles"
    security = MIDDLEWARE.index("django.middleware.security.SecurityMiddleware")
    MIDDLEWARE.insert(security + 1, "whitenoise.middleware.WhiteNoiseMiddleware")
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }

# --- Database ---------------------------------------------------------------------------------

DATABASES = {
    "default": dj_database_url.parse(
        env.str("DATABASE_URL", f"sqlite:///{BASE_DIR / 'db.sqlite3'}"),
        conn_max_age=60,
        conn_health_checks=True,
    ),
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Workers and the web server write to one file: each waits for the other's turn.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode = WAL",
    }
elif DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # A server that does not answer is noticed: seconds.
    DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 4)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# --- Logs -------------------------------------------------------------------------------------

# Not by Django, which would add handlers of its own.
LOGGING_CONFIG = None
web.configure_logs()

# --- Language and time ------------------------------------------------------------------------

LANGUAGE_CODE = "en-us"
#= TIME_ZONE = {{ cookiecutter.timezone | quoted }}
USE_TZ = True

# === Celery: the settings that this service relies on, each with its reason ===================
# The names are those of https://docs.celeryq.dev/en/stable/userguide/configuration.html, in upper
# case and after CELERY_.

#% filter celery_namespace
#% include "{{cookiecutter.__package}}/celeryconfig.py"
#% endfilter
