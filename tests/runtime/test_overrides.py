"""What the runtime overrides in Celery and kombu, and reaches into: the table, and its check.

An upgrade fails here first. Whoever reads a new version and finds all as it was, changes READ_IN.
To add a row, run the tests: a failure says which one is missing.
"""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from tests.projects import RUNTIME

MODULES = sorted(path.stem for path in RUNTIME.glob("*.py") if path.stem[0] != "_")
# The versions in which the names below were read.
READ_IN = {"amqp": "5.4", "billiard": "4.3", "celery": "5.7", "kombu": "5.7", "redis": "8.1"}
ATTRIBUTE = ""  # the signature of what is no function
# What Python and Celery's metaclass put into every class.
GIVEN = {"__annotations__", "__doc__", "__module__", "__qualname__", "name"}
GIVEN |= {"__static_attributes__", "__firstlineno__", "__abstractmethods__", "__parameters__"}
GIVEN |= {"__subclasshook__", "__weakref__", "_abc_impl", "_is_protocol"}


class Row(NamedTuple):
    """A name, its parameters (`x=` has a default), and what for; ``holds`` is in its source."""

    name: str
    signature: str
    why: str
    holds: tuple[str, ...] = ()


BASE = "celery.app.base:Celery."
BEAT = "celery.beat:"
CHANNEL = "kombu.transport.redis:Channel."
CONSUMER = "celery.worker.consumer.consumer:Consumer."
DELAYED = "kombu.transport.native_delayed_delivery:"
QOS = "kombu.transport.redis:QoS."
REQUEST = "celery.worker.request:Request."
RESULTS = "celery.backends.redis:"
SENTINEL_CHANNEL = "kombu.transport.redis:SentinelChannel."
STATE = "celery.worker.state:"
STEP = "celery.bootsteps:Step."
START_STOP = "celery.bootsteps:StartStopStep."
TRANSPORT = "kombu.transport.redis:Transport."
VIRTUAL = "kombu.transport.virtual.base:Channel."
AMQP = "amqp."
CONNECTION_OPTIONS = (
    "self, host=, userid=, password=, login_method=, login_response=, authentication=, "
    "virtual_host=, locale=, client_properties=, ssl=, connect_timeout=, channel_max=, "
    "frame_max=, heartbeat=, on_open=, on_blocked=, on_unblocked=, confirm_publish=, on_tune_ok=, "
    "read_timeout=, write_timeout=, socket_settings=, frame_handler=, frame_writer=, **kwargs"
)
APP_OPTIONS = (
    "self, main=, loader=, backend=, amqp=, events=, log=, control=, set_as_current=, tasks=, "
    "broker=, include=, changes=, config_source=, fixups=, task_cls=, autofinalize=, namespace=, "
    "strict_typing=, config_source_silent=, **kwargs"
)
SEND_OPTIONS = (
    "self, name, args=, kwargs=, countdown=, eta=, task_id=, producer=, connection=, router=, "
    "result_cls=, expires=, publisher=, link=, link_error=, add_to_parent=, group_id=, "
    "group_index=, retries=, chord=, reply_to=, time_limit=, soft_time_limit=, root_id=, "
    "parent_id=, route_name=, shadow=, chain=, task_type=, replaced_task_nesting=, **options"
)
BEAT_OPTIONS = (
    "self, max_interval=, app=, socket_timeout=, pidfile=, no_color=, loglevel=, logfile=, "
    "schedule=, scheduler=, scheduler_cls=, redirect_stdouts=, redirect_stdouts_level=, quiet=, "
    "remote_control=, hostname=, **kwargs"
)
SCHEDULER_OPTIONS = (
    "self, app, schedule=, max_interval=, Producer=, lazy=, sync_every_tasks=, **kwargs"
)
REQUEST_OPTIONS = (
    "self, message, on_ack=, hostname=, eventer=, app=, connection_errors=, request_dict=, task=, "
    "on_reject=, body=, headers=, decoded=, utc=, maybe_make_aware=, maybe_iso8601=, **opts"
)

# By the module that relies on them.
TABLE: dict[str, list[Row]] = {
    "app": [
        Row(BASE + "control_cls", ATTRIBUTE, "keeps what is revoked"),
        Row(BASE + "__init__", APP_OPTIONS, "adds the settings and the heartbeat"),
        Row(BASE + "send_task", SEND_OPTIONS, "every way of sending ends here"),
        Row(BASE + "task_cls", ATTRIBUTE, "our tasks"),
        Row(BASE + "_get_backend", "self", "has result backends of ours"),
        Row(
            "celery.app.backends:by_name",
            "backend=, loader=, extension_namespace=",
            "takes ours by the scheme of the URL",
            ("loader.override_backends",),
        ),
        Row(BASE + "steps", ATTRIBUTE, "the parts of a worker that are ours"),
        Row(
            BASE + "_load_config",
            "self",
            "our defaults are put below the configuration once it is read",
            ("self.on_after_configure.send(sender=self, source=self._conf)",),
        ),
        Row(
            "celery.utils.collections:ConfigurationView.__getitem__",
            "self, key",
            "`maps` are asked in their order, the last one are Celery's defaults",
            ("for mapping in self.maps",),
        ),
        Row("celery.app.task:Task.Request", ATTRIBUTE, "our request"),
        Row("celery.app.task:Task.default_retry_delay", ATTRIBUTE, "ours is shorter"),
        Row(
            "celery.app.task:Task.signature_from_request",
            "self, request=, args=, kwargs=, queue=, **extra_options",
            "each retry is made here",
        ),
        Row(
            "celery.app.task:Task.retry",
            "self, args=, kwargs=, exc=, throw=, eta=, countdown=, max_retries=, **options",
            "drops a task that cannot be sent again, where ours puts it back",
            ("self.signature_from_request(", "raise Reject(exc, requeue=False)"),
        ),
        Row(
            "celery.backends.redis:RedisBackend.redis",
            ATTRIBUTE,
            "its client library, whose errors are those of a server that is away",
        ),
        Row("celery.utils.time:maybe_make_aware", "dt, tz=, naive_as_utc=", "reads an `eta`"),
    ],
    "beat": [
        Row("celery.apps.beat:Beat.init_loader", "self", "stops what is configured wrong"),
        Row(
            "celery.apps.beat:Beat.install_sync_handler",
            "self, service",
            "its handler would end beat in the middle of sending",
            ("platforms.signals.update(SIGTERM=_sync, SIGINT=_sync)",),
        ),
        Row(
            BEAT + "Service.start",
            "self, embedded_process=",
            "closes the scheduler when a tick or a signal raises SystemExit",
            ("except (KeyboardInterrupt, SystemExit):", "self.sync()"),
        ),
        Row(
            BEAT + "Scheduler.tick",
            "self, event_t=, min=, heappop=, heappush=",
            "leads before it sends one entry",
            ("next_entry = self.reserve(entry)", "self.apply_entry(entry, producer=self.producer)"),
        ),
        Row(BEAT + "Scheduler.__init__", SCHEDULER_OPTIONS, "removes an old file"),
        Row(BEAT + "Scheduler.Entry", ATTRIBUTE, "ours"),
        Row(
            BEAT + "Scheduler.apply_entry",
            "self, entry, producer=",
            "an entry that is not sent stays due",
            ("self.apply_async(entry, producer=producer, advance=False)",),
        ),
        Row(BEAT + "Scheduler.close", "self", "ends the lease"),
        Row(BEAT + "Scheduler.producer", "property", "that of the lease"),
        Row(
            BEAT + "Scheduler.setup_schedule",
            "self",
            "the entries of Celery are not removed again",
            ("self.merge_inplace(self.app.conf.beat_schedule)",),
        ),
        Row(
            BEAT + "ScheduleEntry.__init__",
            "self, name=, task=, last_run_at=, total_run_count=, schedule=, args=, kwargs=, "
            "options=, relative=, app=",
            "with our crontab",
        ),
        Row(
            BEAT + "Scheduler.apply_async",
            "self, entry, producer=, advance=, **kwargs",
            "raises SchedulingError in the context of the broker's error",
            ("reraise(SchedulingError, SchedulingError(",),
        ),
        Row(
            "celery.schedules:crontab.remaining_estimate", "self, last_run_at, ffwd=", "by cronsim"
        ),
        Row(
            "celery.schedules:crontab.is_due",
            "self, last_run_at",
            "asks ours",
            ("self.remaining_estimate(last_run_at)",),
        ),
    ],
    "checks": [
        Row(BASE + "Worker", "property", "the command's worker"),
        Row("celery.app.defaults:_OLD_SETTING_KEYS", ATTRIBUTE, "names that Celery still knows"),
        Row("celery.app.utils:Settings.finalize", "self", "reads the configuration"),
        Row("celery.app.utils:Settings.broker_read_url", "property", "as workers read it"),
        Row("celery.app.utils:Settings.broker_write_url", "property", "as senders read it"),
        Row("celery.loaders.base:BaseLoader.conf", "property", "the configuration as it was given"),
    ],
    "dead_letters": [Row("celery.app.utils:find_app", "app, symbol_by_name=, imp=", "as -A does")],
    "django": [
        Row(
            "celery.contrib.django.task:DjangoTask.apply_async_on_commit",
            "self, *args, **kwargs",
            "ours is robust",
        ),
        Row(
            "celery.contrib.django.task:DjangoTask.delay_on_commit",
            "self, *args, **kwargs",
            "goes through ours",
        ),
    ],
    "heartbeat": [
        Row(STEP + "__init__", "self, parent, **kwargs", "removes an old file"),
        Row(STEP + "requires", ATTRIBUTE, "after the consumer"),
        Row(START_STOP + "start", "self, parent", "touches the file"),
        Row(START_STOP + "stop", "self, parent", "removes it"),
        Row(CONSUMER + "timer", ATTRIBUTE, "touches the file from the worker's own loop"),
        Row(
            "kombu.asynchronous.timer:Timer.call_repeatedly",
            "self, secs, fun, args=, kwargs=, priority=",
            "as said",
        ),
        Row("kombu.asynchronous.timer:Timer.cancel", "self, tref", "as said"),
    ],
    "logs": [
        Row("celery.apps.beat:Beat.__init__", BEAT_OPTIONS, "begins the log, and no banner"),
        Row(
            "celery.apps.beat:Beat.run",
            "self",
            "what is quiet writes no banner",
            ("if not self.quiet",),
        ),
        Row(BASE + "Beat", "property", "the command's beat"),
        Row(
            BASE + "subclass_with_self",
            "self, Class, name=, attribute=, reverse=, keep_reduce=, **kw",
            "binds it",
        ),
        Row("celery.apps.worker:safe_say", "msg, f=", "ours logs"),
        Row(
            "celery.apps.worker:_shutdown_handler",
            "worker, sig=, how=, callback=, exitcode=, verbose=",
            "finds `safe_say` in its module when it is called",
            ("safe_say(f'worker: {how} shutdown (MainProcess)', sys.__stdout__)",),
        ),
        Row(
            "celery.apps.worker:Worker.on_start",
            "self",
            "what is quiet writes no banner",
            ("if not self.quiet",),
        ),
        Row("celery.app.log:Logging.redirect_stdouts", "self, loglevel=, name=", "for `print`"),
        Row("celery.utils.log:get_multiprocessing_logger", "", "the pool's own log"),
        Row(
            "celery.app.trace:LOG_RECEIVED",
            ATTRIBUTE,
            "names a task as `add[id]`",
        ),
    ],
    "metrics": [
        Row(STEP + "include_if", "self, parent", "only with a port"),
        Row(STEP + "requires", ATTRIBUTE, "after the pool, so that no child has the port"),
        Row(START_STOP + "start", "self, parent", "begins to serve"),
        Row(STATE + "active_requests", ATTRIBUTE, "how many tasks run"),
        Row("celery.app.amqp:Queues.consume_from", "property", "the queues of a worker"),
        Row(
            BASE + "connection_for_read",
            "self, url=, **kwargs",
            "takes `transport_options` beside those of the configuration",
        ),
    ],
    "poison": [
        Row(STEP + "__init__", "self, parent, **kwargs", "takes the pool's place"),
        Row(STEP + "requires", ATTRIBUTE, "after the consumer"),
        Row(START_STOP + "start", "self, parent", "what was held will come again"),
        Row(START_STOP + "stop", "self, parent", "lets go of what is held"),
        Row(
            CONSUMER + "Blueprint.shutdown",
            "self, parent",
            "calls `shutdown` of each step when the worker leaves",
            ("self.send_all(parent, 'shutdown')",),
        ),
        Row(CONSUMER + "on_task_request", ATTRIBUTE, "is replaced before the strategies read it"),
        Row(CONSUMER + "pool", ATTRIBUTE, "how many tasks can run"),
        Row("celery.concurrency.base:BasePool.num_processes", "property", "as said"),
        Row(STATE + "reserved_requests", ATTRIBUTE, "what the pool has, and what is held"),
        Row(STATE + "should_stop", ATTRIBUTE, "nothing starts in a worker that leaves"),
        Row(
            STATE + "task_ready",
            "request, successful=, remove_request=, discard_active_request=, "
            "discard_reserved_request=, discard_scheduled_request=",
            "a message that is put aside is no longer reserved",
        ),
        Row(REQUEST + "_context", "property", "what a result backend asks for"),
        Row(REQUEST + "store_errors", "property", "as said"),
        Row(REQUEST + "delivery_info", "property", "whether it was delivered again"),
        Row(REQUEST + "message", "property", "what is put aside"),
        Row(REQUEST + "acknowledge", "self", "once it is put aside"),
        Row(
            "celery.backends.base:Backend.mark_as_failure",
            "self, task_id, exc, traceback=, request=, store_result=, call_errbacks=, state=",
            "the result of a task whose message is put aside",
        ),
        Row(
            "kombu.asynchronous.timer:Timer.call_after",
            "self, secs, fun, args=, kwargs=, priority=",
            "looks again",
        ),
        Row("kombu.asynchronous.timer:Timer.cancel", "self, tref", "posts no letter twice"),
    ],
    "rabbitmq": [
        Row(
            "kombu.entity:Queue.queue_declare",
            "self, nowait=, passive=, channel=",
            "one thread after the other",
        ),
        Row(BASE + "control_cls", ATTRIBUTE, "ours"),
        Row("celery.app.control:Control.Mailbox", ATTRIBUTE, "ours"),
        Row("kombu.pidbox:Mailbox.get_queue", "self, hostname", "a replicated queue"),
        Row("kombu.pidbox:Mailbox.get_reply_queue", "self", "a replicated queue"),
        Row(
            CONSUMER + "__init__",
            "self, on_task_request, init_callback=, hostname=, pool=, app=, timer=, controller=, "
            "hub=, amqheartbeat=, worker_options=, disable_rate_limits=, initial_prefetch_count=, "
            "prefetch_multiplier=, **kwargs",
            "has the solo pool send no heartbeat",
        ),
        Row(
            CONSUMER + "create_task_handler",
            "self, promise=",
            "notes the queue of each message",
        ),
        Row(
            CONSUMER + "add_task_queue",
            "self, queue, exchange=, exchange_type=, routing_key=, **options",
            "declares it as a sender does",
        ),
        Row(CONSUMER + "Blueprint", ATTRIBUTE, "with our preparation of delayed delivery"),
        Row(CONSUMER + "Blueprint.default_steps", ATTRIBUTE, "as said"),
        Row(
            "celery.worker.consumer.delayed_delivery:DelayedDelivery.start",
            "self, c",
            "once for each process",
        ),
        Row(
            "celery.worker.consumer.delayed_delivery:DelayedDelivery._bind_queues",
            "self, app, connection",
            "binds the queues of the app to what keeps delayed tasks",
        ),
        Row(
            "celery.worker.consumer.delayed_delivery:DelayedDelivery._validate_broker_urls",
            "self, broker_urls",
            "the addresses at which it prepares, one after the other",
        ),
        Row(
            CONSUMER + "on_connection_error_after_connected",
            "self, exc",
            "names the setting when a task outlasts it",
        ),
        Row(BASE + "__init__", APP_OPTIONS, "remembers what it has declared"),
        Row(
            "celery.app.routes:Router.route",
            "self, options, name, args=, kwargs=, task_type=",
            "tells the queue of a delayed task, as Celery will",
        ),
        Row(
            BASE + "send_task",
            SEND_OPTIONS,
            "routes a task that is sent by its name with the options of the task",
            (
                "options = dict(filtered_opts, **options)",
                "options, route_name or name, args, kwargs, task_type",
            ),
        ),
        Row(
            DELAYED + "declare_native_delayed_delivery_exchanges_and_queues",
            "connection, queue_type, prefix=",
            "as a worker does at its start",
        ),
        Row(
            DELAYED + "bind_queue_to_native_delayed_delivery_exchange",
            "connection, queue, prefix=",
            "as a worker does at its start",
        ),
        Row(
            DELAYED + "calculate_routing_key",
            "countdown, routing_key",
            "puts 28 digits before a routing key",
            ("{MAX_NUMBER_OF_BITS_TO_USE}b}') + f'.{routing_key}'",),
        ),
        Row(
            "kombu.messaging:Consumer._active_tags",
            ATTRIBUTE,
            "tells the queue of a consumer tag",
        ),
        Row("kombu.compression:compress", "body, content_type", "a letter holds what was sent"),
        Row("kombu.message:Message.errors", ATTRIBUTE, "whether it could be decompressed"),
    ],
    "rabbitmq_transport": [
        Row(
            "amqp.exceptions:AMQPError.__init__",
            "self, reply_text=, method_sig=, method_name=, reply_code=",
            "an error with a text of its own",
        ),
        Row(
            AMQP + "channel:Channel._basic_publish",
            "self, msg, exchange=, routing_key=, mandatory=, immediate=, timeout=, "
            "confirm_timeout=, argsig=",
            "notes that a confirm is due",
        ),
        Row(
            AMQP + "channel:Channel._on_basic_return",
            "self, reply_code, reply_text, exchange, routing_key, message",
            "no queue takes it",
        ),
        Row(AMQP + "channel:Channel._on_basic_ack", "self, delivery_tag, multiple", "it came"),
        Row(AMQP + "channel:Channel._on_basic_nack", "self, delivery_tag, multiple", "it came"),
        Row(AMQP + "channel:Channel.basic_publish_confirm", "self, *args, **kwargs", "bounds it"),
        Row(
            AMQP + "channel:Channel.close",
            "self, reply_code=, reply_text=, method_sig=, argsig=",
            "not while RabbitMQ blocks: it would not answer",
        ),
        Row(AMQP + "channel:Channel.collect", "self", "no confirm is due any more"),
        Row(
            AMQP + "channel:Channel.basic_consume",
            "self, queue=, consumer_tag=, no_local=, no_ack=, exclusive=, nowait=, callback=, "
            "arguments=, on_cancel=, argsig=",
            "does not wait for remote control",
        ),
        Row(
            AMQP + "channel:Channel.exchange_bind",
            "self, destination, source=, routing_key=, nowait=, arguments=, argsig=",
            "does not wait while a node hangs",
        ),
        Row(
            AMQP + "channel:Channel.queue_bind",
            "self, queue, exchange=, routing_key=, nowait=, arguments=, argsig=",
            "does not wait while a node hangs",
        ),
        Row("kombu.transport.pyamqp:Connection.Channel", ATTRIBUTE, "our channels"),
        Row("kombu.transport.pyamqp:Transport.Connection", ATTRIBUTE, "our connections"),
        Row(
            "kombu.transport.pyamqp:Transport.recoverable_connection_errors",
            ATTRIBUTE,
            "with that of a node that stops",
        ),
        Row(
            "kombu.transport.pyamqp:Transport.establish_connection",
            "self",
            "tries each address",
            ("conninfo.ssl['server_hostname'] = conninfo.hostname", "conn.client = self.client"),
        ),
        Row(
            "kombu.connection:Connection.switch",
            "self, conn_str",
            "goes to another address, without its transport",
            ("self.close()", "self._init_params"),
        ),
        Row(AMQP + "connection:Connection.__init__", CONNECTION_OPTIONS, "adds `patience`"),
        Row(AMQP + "connection:Connection._on_blocked", "self", "notes it"),
        Row(AMQP + "connection:Connection._on_unblocked", "self", "notes it"),
        Row(
            AMQP + "connection:Connection.close",
            "self, reply_code=, reply_text=, method_sig=, argsig=",
            "keeps one that RabbitMQ blocks",
        ),
        Row(
            AMQP + "connection:Connection.drain_events",
            "self, timeout=",
            "bounds the wait, whatever heartbeats come",
            ("while not self.blocking_read(timeout)",),
        ),
        Row(
            AMQP + "abstract_channel:AbstractChannel.wait",
            "self, method, callback=, timeout=, returns_tuple=",
            "notes when RabbitMQ was asked",
            ("conn.drain_events(timeout=timeout)",),
        ),
        Row("kombu.transport:TRANSPORT_ALIASES", ATTRIBUTE, "the transport of a URL"),
    ],
    "redis": [
        Row("kombu.transport.virtual.base:Message._raw", ATTRIBUTE, "what was sent to all workers"),
        Row(
            CONSUMER + "ensure_connected",
            "self, conn",
            "ends where Redis refuses the worker",
            ("conn.ensure_connection(\n            _error_handler, ",),
        ),
        Row(
            "kombu.connection:Connection._ensure_connection",
            "self, errback=, max_retries=, interval_start=, interval_step=, interval_max=, "
            "callback=, reraise_as_library_errors=, timeout=",
            "says each failure to `errback`, which may end the worker",
            ("errback(exc, interval)",),
        ),
        Row(CHANNEL + "_size", "self, queue", "declares nothing, where `queue_declare` does"),
    ],
    "redis_transport": [
        Row(CHANNEL + "_basic_cancel", "self, consumer_tag", "what is cancelled goes back"),
        Row(
            "kombu.transport.redis:GlobalKeyPrefixMixin.pipeline",
            "self, transaction=, shard_hint=",
            "a full server refuses each transaction",
        ),
        Row(CHANNEL + "_get_client", "self", "gives that client"),
        Row(CHANNEL + "_new_queue", "self, queue, auto_delete=, **kwargs", "knows not too many"),
        Row("kombu.asynchronous.hub:Hub._waker", ATTRIBUTE, "lets the loop turn at once"),
        Row("kombu.transport:TRANSPORT_ALIASES", ATTRIBUTE, "the transport of a URL"),
        Row(
            "kombu.transport.virtual.base:Message.__init__",
            "self, payload, channel=, **kwargs",
            "reads any bytes",
        ),
        Row("kombu.transport.virtual.base:Message._raw", ATTRIBUTE, "when a message is due"),
        Row(QOS + "append", "self, message, delivery_tag", "what was taken is recorded"),
        Row(QOS + "ack", "self, delivery_tag", "travels with the next take"),
        Row(QOS + "reject", "self, delivery_tag, requeue=", "as `ack`"),
        Row(QOS + "restore_unacked", "self, client=", "gives back in order, or later"),
        Row(QOS + "restore_visible", "self, start=, num=, interval=", "without a mutex"),
        Row(QOS + "restore_by_tag", "self, tag, client=, leftmost=", "gives back in one step"),
        Row(QOS + "_delivered", ATTRIBUTE, "what is not acknowledged"),
        Row(QOS + "_dirty", ATTRIBUTE, "what is, though it is still there"),
        Row(QOS + "_vrestore_count", ATTRIBUTE, "not every look restores"),
        Row(QOS + "unacked_key", "property", "where unacknowledged messages are"),
        Row(QOS + "unacked_index_key", "property", "and since when"),
        Row(QOS + "visibility_timeout", "property", "as said"),
        Row(CHANNEL + "__init__", "self, *args, **kwargs", "prepares the first take"),
        Row(CHANNEL + "QoS", ATTRIBUTE, "ours"),
        Row(VIRTUAL + "Message", ATTRIBUTE, "ours"),
        Row(CHANNEL + "_put", "self, queue, message, **kwargs", "rings the bell"),
        Row(CHANNEL + "basic_consume", "self, queue, *args, **kwargs", "starts with a take"),
        Row(VIRTUAL + "basic_get", "self, queue, no_ack=, **kwargs", "takes and records"),
        Row(CHANNEL + "_brpop_start", "self, timeout=", "takes, or waits for bells"),
        Row(CHANNEL + "_brpop_read", "self, **options", "hands over what was taken"),
        Row(CHANNEL + "_on_connection_disconnect", "self, connection", "a take may be lost"),
        Row(CHANNEL + "close", "self", "what was taken goes back"),
        Row(CHANNEL + "_has_queue", "self, queue, **kwargs", "counts delayed messages"),
        Row(VIRTUAL + "queue_delete", "self, queue, if_unused=, if_empty=, **kwargs", "as said"),
        Row(CHANNEL + "_purge", "self, queue", "as said"),
        Row(
            CHANNEL + "_delete",
            "self, queue, exchange, routing_key, pattern, *args, **kwargs",
            "as said",
        ),
        Row(
            CHANNEL + "_queue_bind",
            "self, exchange, routing_key, pattern, queue",
            "on a full server, too",
        ),
        Row(CHANNEL + "_refresh_binding", "property", "on a full server, too"),
        Row("kombu.transport.redis:REFRESH_BINDING", ATTRIBUTE, "its script"),
        Row(CHANNEL + "_in_poll", ATTRIBUTE, "the connection that waits"),
        Row(CHANNEL + "_brpop_sent_at", ATTRIBUTE, "when its wait began"),
        Row(CHANNEL + "_flush_brpop_reauth", "self", "once a wait is over"),
        Row(CHANNEL + "_closing", ATTRIBUTE, "what comes now goes back"),
        Row(CHANNEL + "_expires", ATTRIBUTE, "how long a queue lives"),
        Row(CHANNEL + "_queue_cycle", ATTRIBUTE, "whose turn it is"),
        Row(CHANNEL + "_q_for_pri", "self, queue, pri", "the list of a priority"),
        Row(CHANNEL + "_create_client", "self, asynchronous=", "a client with the prefix"),
        Row(CHANNEL + "_disconnect_pools", "self", "when it is closed"),
        Row(CHANNEL + "_maybe_update_queues_expire", "self, client, queue", "as kombu"),
        Row(CHANNEL + "conn_or_acquire", "self, client=", "a client"),
        Row(CHANNEL + "brpop_timeout", ATTRIBUTE, "the length of a wait"),
        Row(CHANNEL + "global_keyprefix", ATTRIBUTE, "before each key"),
        Row(CHANNEL + "keyprefix_binding_permanent", ATTRIBUTE, "the table of bindings"),
        Row(CHANNEL + "priority_steps", ATTRIBUTE, "the lists of a queue"),
        Row(VIRTUAL + "_active_queues", ATTRIBUTE, "what is consumed"),
        Row(VIRTUAL + "_get_message_priority", "self, message, reverse=", "the list it goes to"),
        Row(VIRTUAL + "_lookup", "self, exchange, routing_key, default=", "of kombu's records"),
        Row(TRANSPORT + "__init__", "self, *args, **kwargs", "polls with ours"),
        Row(TRANSPORT + "Channel", ATTRIBUTE, "ours"),
        Row("kombu.transport.redis:SentinelTransport.Channel", ATTRIBUTE, "ours"),
        Row(SENTINEL_CHANNEL + "connection_class", ATTRIBUTE, "ours"),
        Row(SENTINEL_CHANNEL + "connection_class_ssl", ATTRIBUTE, "ours"),
        Row(
            SENTINEL_CHANNEL + "from_transport_options",
            ATTRIBUTE,
            "`master_name` and `sentinel_kwargs` are read",
        ),
        Row(
            SENTINEL_CHANNEL + "_sentinel_managed_pool",
            "self, asynchronous=",
            "one object asks the sentinels for a whole process",
            ("connparams = self._connparams(asynchronous)", "self.connection.client.alt"),
        ),
        Row(CHANNEL + "_connparams", "self, asynchronous=", "what a connection needs"),
        Row(TRANSPORT + "register_with_event_loop", "self, connection, loop", "takes many at once"),
        Row(TRANSPORT + "cycle", ATTRIBUTE, "the poller"),
        Row(TRANSPORT + "_callbacks", ATTRIBUTE, "who consumes a queue"),
        Row(TRANSPORT + "_deliver", "self, message, queue", "hands a message over"),
        Row("kombu.transport.redis:MultiChannelPoller.on_poll_start", "self", "sends what is due"),
        Row("kombu.transport.redis:MultiChannelPoller._channels", ATTRIBUTE, "as said"),
        Row(
            "kombu.transport.redis:MultiChannelPoller.get",
            "self, callback, timeout=",
            "restores without an event loop, which kombu does only when nothing answers",
            ("if events:", "self.maybe_restore_messages()", "raise Empty()"),
        ),
        Row("kombu.transport.redis:MultiChannelPoller.maybe_restore_messages", "self", "as said"),
        Row(CHANNEL + "unacked_restore_interval", ATTRIBUTE, "how often"),
    ],
    "revoked": [
        Row(STEP + "__init__", "self, parent, **kwargs", "has a thread"),
        Row(
            "celery.app.control:Control.broadcast",
            "self, command, arguments=, destination=, connection=, reply=, timeout=, limit=, "
            "callback=, channel=, pattern=, matcher=, **extra_kwargs",
            "keeps what is revoked",
        ),
        Row(START_STOP + "start", "self, parent", "reads what was revoked"),
        Row(STEP + "requires", ATTRIBUTE, "after the remote control"),
        Row(STATE + "revoked", ATTRIBUTE, "the ids that workers look at"),
        Row(STATE + "revoked_stamps", ATTRIBUTE, "the same for stamped headers"),
    ],
    "results": [
        Row(
            RESULTS + "RedisBackend._set",
            "self, key, value, expires=",
            "stores while Redis is full",
        ),
        Row(RESULTS + "RedisBackend.exception_safe_to_retry", "self, exc", "a full Redis is, too"),
        Row(
            "celery.backends.base:Backend.on_backend_retryable_error",
            "self, exc",
            "leaves a server that takes no writes any more",
        ),
        Row(
            "redis.client:Pipeline.annotate_exception",
            "self, exception, number, command",
            "puts words before the code of an answer",
            ("caused error: {exception.args[0]}",),
        ),
    ],
    "django_results": [
        Row(
            "celery.backends.base:Backend.exception_safe_to_retry",
            "self, exc",
            "a database that is away is, too",
        )
    ],
    "sentinel": [
        Row(
            "redis.sentinel:Sentinel.discover_master",
            "self, service_name",
            "asks first who answered last",
            ("self.check_master_state(state, service_name)", 'state["ip"]'),
        ),
        Row("redis.sentinel:Sentinel.check_master_state", "self, state, service_name", "as said"),
        Row("redis.sentinel:Sentinel.filter_slaves", "self, slaves", "the replicas that are up"),
        Row(
            "redis.sentinel:SentinelManagedConnection.read_response",
            "self, disable_decoding=, timeout=, disconnect_on_error=, push_request=",
            "ends at a server that is no master, and after an error; redis-py knows READONLY",
            ("except ReadOnlyError", "self.disconnect()"),
        ),
        Row("redis.sentinel:SentinelConnectionPool.sentinel_manager", ATTRIBUTE, "the sentinels"),
        Row(
            "redis.sentinel:SentinelConnectionPoolProxy.get_master_address",
            "self",
            "leaves the connections to an old master",
            ("disconnect(inuse_connections=False)",),
        ),
        Row(
            RESULTS + "SentinelBackend._get_pool",
            "self, **params",
            "our connections",
            ("self._get_sentinel_instance(**params)", 'get("master_name"'),
        ),
        Row(RESULTS + "SentinelBackend.connection_class_ssl", ATTRIBUTE, "ours"),
        Row(RESULTS + "RedisBackend._transport_options", "property", "the name of the master"),
        Row(
            RESULTS + "RedisBackend._set",
            "self, key, value, expires=",
            "waits for the replicas",
            ("pipe.setex(key, expires, value)", "pipe.publish(key, value)"),
        ),
        Row(
            "celery.backends.base:BaseKeyValueStoreBackend._store_result",
            "self, task_id, result, state, traceback=, request=, **kwargs",
            "reads before it writes",
            ("self._get_task_meta_for(task_id)",),
        ),
    ],
    "worker": [
        Row(
            CONSUMER + "__init__",
            "self, on_task_request, init_callback=, hostname=, pool=, app=, timer=, controller=, "
            "hub=, amqheartbeat=, worker_options=, disable_rate_limits=, initial_prefetch_count=, "
            "prefetch_multiplier=, **kwargs",
            "without mingle and gossip, and with a connection more",
        ),
        Row("kombu.asynchronous.hub:Hub._waker", ATTRIBUTE, "an idle worker leaves at once"),
        Row(CONSUMER + "on_connection_error_after_connected", "self, exc", "ends if refused"),
        Row(CONSUMER + "on_connection_error_before_connected", "self, exc", "ends if refused"),
        Row(
            "celery.apps.worker:Worker.on_before_init",
            "self, quiet=, **kwargs",
            "stops what is configured wrong",
        ),
        Row("celery.concurrency.base:BasePool._pool", ATTRIBUTE, "processes that have ended"),
        Row(
            "celery.concurrency.asynpool:AsynPool._track_child_process",
            "self, proc, hub",
            "processes that have ended",
            ("_sentinel_poll",),
        ),
        Row(
            "celery.worker.worker:WorkController.register_with_event_loop",
            "self, hub",
            "drives the pool also where one of its processes has just ended",
        ),
        Row("celery.worker.worker:WorkController.start", "self", "leaves after a cold shutdown"),
        Row(
            "celery.worker.worker:WorkController.stop",
            "self, in_sighandler=, exitcode=",
            "every warm shutdown begins here, and waits for the tasks",
            ("self._shutdown(warm=True)",),
        ),
        Row(
            "celery.worker.worker:WorkController.wait_for_soft_shutdown",
            "self",
            "is the first step of a cold shutdown, in the signal handler",
        ),
        Row("os:_exit", "status", "leaves threads behind"),
        Row(REQUEST + "__init__", REQUEST_OPTIONS, "refuses what Celery cannot run"),
        Row(
            REQUEST + "on_failure",
            "self, exc_info, send_failed_event=, return_ok=",
            "a MemoryError is raised there, and would end the worker",
            ("raise MemoryError(",),
        ),
        Row(
            REQUEST + "_success_was_stored",
            "self",
            "asks the result backend, off the loop and not for long",
            ("return meta", "return False"),
        ),
        Row(REQUEST + "on_accepted", "self, pid, time_accepted", "announces the start"),
        Row(REQUEST + "on_timeout", "self, soft, timeout", "its lines name the request"),
        Row(REQUEST + "cancel", "self, pool, signal=, emit_retry=", "writes no result"),
        Row(REQUEST + "_payload", "property", "the parts of a message's body"),
        Row(REQUEST + "request_dict", "property", "its headers"),
        Row(REQUEST + "time_start", ATTRIBUTE, "how long it took"),
        Row(REQUEST + "eta", "property", "is checked, and gone once it is due"),
        Row("atexit:_run_exitfuncs", "", "where Celery starts a worker again after SIGHUP"),
        Row(
            REQUEST + "_retry_worker_lost",
            "self, exc, exc_info",
            "a task whose process died is tried again after our `default_retry_delay`",
            ("countdown = task.default_retry_delay", "task.signature_from_request("),
        ),
        Row(
            "celery.worker.request:create_request_cls",
            "base, task, pool, hostname, eventer, ref=, revoked_tasks=, task_ready=, trace=, app=",
            "makes a subclass for each task, with an `on_success` of its own",
            ("class Request(base)", "def on_success(self,", "callback=self.on_success"),
        ),
        Row(
            "celery.worker.strategy:default",
            "task, app, consumer, info=, error=, task_reserved=, to_system_tz=, bytes=, "
            "proto1_to_proto2=",
            "uses the task's `Request`, and the consumer's `on_task_request` at that moment",
            ("symbol_by_name(task.Request)", "handle = consumer.on_task_request"),
        ),
        Row(
            CONSUMER + "create_task_handler",
            "self, promise=",
            "what it raises ends the worker; it calls our four handlers",
            (
                "self.on_unknown_message",
                "self.on_unknown_task",
                "self.on_invalid_task",
                "self.on_decode_error",
            ),
        ),
        Row(CONSUMER + "on_unknown_message", "self, body, message", "puts it aside"),
        Row(CONSUMER + "on_unknown_task", "self, body, message, exc", "puts it aside"),
        Row(CONSUMER + "on_invalid_task", "self, body, message, exc", "puts it aside"),
        Row(CONSUMER + "on_decode_error", "self, message, exc", "puts it aside"),
        Row(CONSUMER + "connection_errors", ATTRIBUTE, "what is no fault of a message"),
        Row("billiard.einfo:ExceptionWithTraceback.exc", ATTRIBUTE, "an error as a pool wraps it"),
        Row("billiard.einfo:ExceptionInfo.exception", ATTRIBUTE, "is replaced"),
    ],
}
ROWS = [
    pytest.param(module, row, id=f"{module}-{row.name}")
    for module in TABLE
    for row in TABLE[module]
]


def find(name: str) -> Any:
    """Return what a name stands for; None for an attribute that only objects have.

    Raises AttributeError if there is no such name.
    """
    module_name, _, path = name.partition(":")
    found: Any = importlib.import_module(module_name)
    *parents, last = path.split(".")
    for parent in parents:
        found = getattr(found, parent)
    if isinstance(found, ModuleType):
        return getattr(found, last)
    for each in found.__mro__:
        if last in vars(each):
            return vars(each)[last]
    if any(last in set_on_self(each) for each in found.__mro__[:-1]):
        return None
    raise AttributeError


def set_on_self(cls: type) -> Iterator[str]:
    """Yield the names of the attributes that the methods of a class set on `self`."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls)))):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                yield node.attr


def classes_of(place: ModuleType | type) -> Iterator[type]:
    """Yield the classes that a module defines, with those within them."""
    for each in vars(place).values():
        inside = getattr(place, "__module__", place.__name__)
        if isinstance(each, type) and each.__module__ == inside and each is not place:
            yield each
            yield from classes_of(each)


def signature_of(found: object) -> str:
    """Return the parameters of a function as the table writes them."""
    if isinstance(found, property) or type(found).__name__ == "cached_property":
        return "property"
    if isinstance(found, type) or not callable(found):
        return ATTRIBUTE
    if getattr(found, "__text_signature__", "") is None:  # Python does not tell
        return ""
    stars: dict[Any, str] = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    return ", ".join(
        stars.get(each.kind, "") + each.name + "=" * (each.default is not each.empty)
        for each in inspect.signature(found).parameters.values()
    )


def library_of(name: str) -> str:
    """Return the library that a name belongs to, and its version here."""
    library = name.partition(".")[0].partition(":")[0]
    return f"{library} {version(library)}"


def overrides_of(module: str) -> dict[str, str]:
    """Return the names of the libraries that a module overrides, each with its signature."""
    overrides = {}
    for cls in classes_of(importlib.import_module(f"runtime.{module}")):
        for name in vars(cls).keys() - GIVEN:
            for base in cls.__mro__[1:]:
                if base.__module__.partition(".")[0] in READ_IN and name in vars(base):
                    # Celery's metaclass puts the module before the name of a step.
                    cls_name = base.__qualname__.removeprefix(f"{base.__module__}.")
                    row = f"{base.__module__}:{cls_name}.{name}"
                    overrides[row] = signature_of(vars(base)[name])
                    break
    return overrides


# Taken before any test runs: a worker that starts sets `requires` on the classes of its steps.
OVERRIDES = {module: overrides_of(module) for module in MODULES}


@pytest.mark.parametrize(("module", "row"), ROWS)
def test_each_name_is_still_what_it_was(module: str, row: Row) -> None:
    name = row.name.replace(":", ".")
    again = f"runtime/{module}.py relies on it ({row.why}): read it again"
    try:
        found = find(row.name)
    except (AttributeError, ImportError):
        pytest.fail(f"{library_of(row.name)} has no {name}; {again}", pytrace=False)
    if (signature := signature_of(found)) != row.signature:
        text = f"({signature}) instead of ({row.signature})"
        pytest.fail(f"{library_of(row.name)}: {name} has {text}; {again}", pytrace=False)
    for text in row.holds:
        if text not in inspect.getsource(found):
            pytest.fail(f"{library_of(row.name)}: {name} has no {text!r}; {again}", pytrace=False)


@pytest.mark.parametrize("library", READ_IN)
def test_each_library_has_the_version_in_which_it_was_read(library: str) -> None:
    if not version(library).startswith(f"{READ_IN[library]}."):
        pytest.fail(
            f"{library} {version(library)} is here, and {READ_IN[library]} was read: read what "
            "the rows of the table name, then change READ_IN",
            pytrace=False,
        )


@pytest.mark.parametrize("module", MODULES)
def test_each_override_has_a_row(module: str) -> None:
    needed = OVERRIDES[module]
    rows = {row.name for row in TABLE.get(module, [])}
    missing = [f"Row({row!r}, {needed[row]!r}, 'why')," for row in sorted(needed.keys() - rows)]
    if missing:
        pytest.fail("\n".join([f"TABLE[{module!r}] needs", *missing]), pytrace=False)


@pytest.mark.parametrize("module", MODULES)
def test_each_private_name_of_others_has_a_row(module: str) -> None:
    tree = ast.parse((RUNTIME / f"{module}.py").read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    ours = {each.name for each in nodes if isinstance(each, ast.FunctionDef | ast.ClassDef)}
    attributes = [each for each in nodes if isinstance(each, ast.Attribute)]
    ours |= {each.attr for each in attributes if isinstance(each.ctx, ast.Store)}
    private = {each.attr for each in attributes if each.attr[0] == "_" and each.attr[:2] != "__"}
    rows = {row.name.replace(":", ".").rpartition(".")[2] for row in TABLE.get(module, [])}
    missing = private - ours - rows
    if missing:
        pytest.fail(f"TABLE[{module!r}] has no row for {', '.join(missing)}", pytrace=False)


def test_the_table_names_modules_that_are_there_and_no_row_twice() -> None:
    assert set(TABLE) <= set(MODULES)
    assert all(len({row.name for row in rows}) == len(rows) for rows in TABLE.values())
