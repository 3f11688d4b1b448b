"""The result backend on Redis, which a worker can write to while Redis is full.

Redis refuses writes at `maxmemory`. A worker would wait to store a result, and not acknowledge its
task, which would free more memory than the result needs.
"""

import re
from typing import Any

from celery.backends import redis

# The answers of a server that refuses every write for now, alone or of a command in a pipeline.
REFUSED = re.compile(r"(^|caused error: )(MISCONF|NOREPLICAS) ")

# Redis lets a script pass whose first write only frees memory.
STORE = """
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
"""


class RedisBackend(redis.RedisBackend):
    """Keeps results in Redis."""

    redis: Any
    client: Any
    expires: Any

    def _set(self, key: Any, value: Any, expires: Any = None) -> None:
        try:
            super()._set(key, value, expires)  # type: ignore[misc]
        except self._full:
            seconds = self.expires if expires is None else expires
            self.client.eval(STORE, 1, key, value, seconds or 0)

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Tell whether to try again, as with what waits for the other tasks of a chord."""
        errors = self.redis.exceptions
        refused = isinstance(exc, errors.ResponseError) and REFUSED.search(str(exc))
        again = refused or isinstance(exc, (*self._full, errors.ReadOnlyError))
        return bool(again) or super().exception_safe_to_retry(exc)

    def on_backend_retryable_error(self, exc: Exception) -> None:
        """Leave a server that has become a replica: a new connection may find the new master."""
        if isinstance(exc, self.redis.exceptions.ReadOnlyError):
            self.client.connection_pool.disconnect(inuse_connections=False)

    @property
    def _full(self) -> tuple[type[Exception], ...]:
        errors = self.redis.exceptions
        return (errors.OutOfMemoryError, errors.ExecAbortError)  # for a command, for a transaction
