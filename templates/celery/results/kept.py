# A worker stores a result once the backend is back; a short outage would leave tasks pending.
result_backend_always_retry = True
# Readers give up after seconds; only a worker never does.
result_backend_max_retries = 8
# Old results are dropped after a day.
result_expires = timedelta(days=1)
