# A worker whose connection broke can return to its control queue before the broker notices.
control_queue_exclusive = False
control_queue_durable = True
# Seconds; a dead connection is noticed within two of them.
broker_heartbeat = 20
# With TLS, certificates are verified; by default, Celery does not verify a broker's certificate.
_ca_certs = env.str("CELERY_CA_CERTS", None)
broker_use_ssl = (
    # Each server has to have a certificate for its own name.
    {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": _ca_certs, "server_hostname": None}
    if broker_url.startswith("amqps:")
    else None
)
