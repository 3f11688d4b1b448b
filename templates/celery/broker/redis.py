_ca_certs = env.str("CELERY_CA_CERTS", None)
#% include "celery/sentinel.py"
broker_use_ssl = _tls if broker_url.startswith(_tls_schemes) else None
