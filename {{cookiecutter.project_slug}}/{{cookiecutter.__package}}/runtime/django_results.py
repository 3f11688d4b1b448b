"""Results in Django's database, which are stored although it was away."""

from django.db import InterfaceError, OperationalError, connection
from django_celery_results import backends


class DatabaseBackend(backends.DatabaseBackend):  # type: ignore[misc]
    """Results as rows of django-celery-results."""

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Tell whether to try again: while the database cannot be reached, on a new connection.

        django-celery-results 2.6 does so only for InterfaceError, which psycopg does not raise.
        """
        if isinstance(exc, (InterfaceError, OperationalError)):
            connection.close()
            return True
        return False
