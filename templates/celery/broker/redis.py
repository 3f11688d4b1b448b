# Certificates are verified wherever TLS is used; without this, Celery checks none of a broker.
_ca_certs = env.str("CELERY_CA_CERTS", None)
broker_use_ssl = (
    {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": _ca_certs}
    if broker_url.startswith("rediss:")
    else None
)
