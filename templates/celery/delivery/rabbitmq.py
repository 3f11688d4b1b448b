# Replicated queues, which outlive the loss of a node; they need a topic exchange for `countdown`.
task_default_queue_type = "quorum"
task_default_exchange_type = "topic"
task_create_missing_queue_type = "quorum"
task_create_missing_queue_exchange_type = "topic"
broker_transport_options: dict[str, Any] = {
    # The broker confirms each message; without it, nobody would notice one that a crash loses.
    "confirm_publish": True,
    # Seconds until a server that does not answer counts as down.
    "connect_timeout": 4,
    # For all addresses together; without it, the first one that is silent uses up the time.
    "connect_retries_timeout": 15,
    "read_timeout": 10,
    "write_timeout": 10,
}
