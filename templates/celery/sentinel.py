# With TLS, certificates are verified; by default, Celery does not verify a broker's certificate.
_tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": _ca_certs}
_tls_schemes: tuple[str, ...] = ("rediss:",)
# Redis with a standby: Sentinel, at `sentinel://` addresses, says which server is the master.
_sentinel: dict[str, Any] = {}
if _master := env.str("CELERY_SENTINEL_MASTER", None):
    _sentinel = {
        "master_name": _master,
        "sentinel_kwargs": {"password": env.str("CELERY_SENTINEL_PASSWORD", None)},
        # Seconds; a silent master is noticed before it is back.
        "health_check_interval": 5,
    }
    if env.bool("CELERY_SENTINEL_TLS", default=False):
        _tls_schemes = ("rediss:", "sentinel:")
        _sentinel["sentinel_kwargs"] |= {"ssl": True, **_tls}
