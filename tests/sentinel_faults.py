"""Redis with a standby, what breaks and what is lost: `faults` for Sentinel.

A stream of tasks goes to a worker through a master with two replicas and three sentinels. `make
faults` does each fault to the generated configuration and to that of the usual tutorial, and writes
the table of the README; `test_sentinel_faults.py` asserts what must hold for the generated one.
Words behind ``python -m tests.sentinel_faults`` choose some of it (``ours planned``): they only
print.
"""

import contextlib
import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import sentinels, servers
from tests.faults import CONFIGURATIONS, chosen, generate, table, write_table
from tests.projects import BakedProject
from tests.service import DEADLINE, Service, wait_until

HEAD = "lost / stuck / run twice / longest pause / longest call"
MARKS = ("<!-- sentinel faults -->\n", "<!-- /sentinel faults -->")
FROZEN = 15  # seconds
LIMIT = 5  # of a task, in seconds


@dataclass
class Outcome:
    """What a fault has left behind, in numbers of tasks and in seconds."""

    sent: int  # tasks that the broker accepted
    refused: int  # calls that failed
    lost: int  # accepted, but no end or no result, and the broker has it no more
    stuck: int  # the same, but the broker keeps it, and gives it to nobody
    twice: int
    pause: float  # the longest time in which no task ended
    sentinels: float  # of it, the time until the sentinels named another master
    call: float  # the longest call
    log: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return the cell of the table."""
        return f"{self.lost} / {self.stuck} / {self.twice} / {self.pause:.0f} s / {self.call:.0f} s"


class Lab:
    """A generated project at work, or a naive one."""

    def __init__(
        self, stack: contextlib.ExitStack, project: BakedProject, configuration: str
    ) -> None:
        """Start the servers, a worker, and the stream of tasks."""
        self.ours = configuration == "ours"
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        for name in ("fault_tasks.py", "sentinel_tasks.py"):
            shutil.copy(Path(__file__).with_name(name), self.directory)
        self.notes = self.directory / "notes"
        self.notes.touch()
        self.group = stack.enter_context(sentinels.group(careful=self.ours))
        environment = {
            "PYTHONPATH": str(self.directory),
            "FAULTS_DIRECTORY": str(self.directory),
            "FAULTS_CONFIGURATION": configuration,
            "HEARTBEAT_DIR": str(self.directory),
            "CELERY_SENTINEL_MASTER": sentinels.MASTER,
            "CELERY_TASK_TIME_LIMIT": str(LIMIT),
            "CELERY_VISIBILITY_TIMEOUT": str(LIMIT + 3),
        }
        service = Service(project, self.group.url(0), self.group.url(1), environment)
        self.service = stack.enter_context(service)
        python = project.path / ".venv" / "bin" / "python"
        options = ("--loglevel", "INFO", "--concurrency", "2")
        command = (python, "-m", "celery", "-A", "sentinel_tasks", "worker", *options)
        self.worker = self.service.start(*command, ready=r" ready\.")
        code = "from sentinel_tasks import stream; stream()"
        self.sender = self.service.start(python, "-c", code)

    def lines(self) -> list[tuple[str, str, float]]:
        """Return what was noted."""
        lines = (line.split() for line in self.notes.read_text("utf-8").splitlines())
        return [(word, name, float(seconds)) for word, name, seconds in lines]

    def ends(self) -> list[float]:
        """Return when tasks ended."""
        return [seconds for word, _, seconds in self.lines() if word == "end"]

    def go_on(self, after: float, patience: float) -> None:
        """Wait until a hundred tasks have ended after a time; ours must come to that."""
        end = time.monotonic() + (DEADLINE if self.ours else patience)
        while sum(each > after for each in self.ends()) < 100:
            if time.monotonic() > end:
                assert not self.ours, "the service does not go on"
                return
            time.sleep(0.1)

    def kept(self) -> tuple[set[str], int]:
        """Return the tasks that have a result, and how many messages the broker keeps."""
        master = self.group.master()
        assert master
        with master.client(1) as client:
            keys = list(client.scan_iter("*celery-task-meta-*", count=1000))
            results = [json.loads(text) for text in client.mget(keys) if text] if keys else []
        with master.client(0) as client:
            queue = "*my_service" if self.ours else "celery"
            lists = [key for key in client.keys(queue) if client.type(key) == "list"]
            left = sum(map(client.llen, lists)) + sum(map(client.hlen, client.keys("*unacked")))
        return {each["task_id"] for each in results if each["status"] == "SUCCESS"}, left

    def outcome(self, struck: float, named_after: float) -> Outcome:
        """Stop the stream, wait until all is done or nothing goes on, and count."""
        stopped = time.time()
        (self.directory / "stop").touch()
        try:
            self.sender.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            assert not self.ours, "a call does not return"
            self.sender.kill()
        waited = time.time() - stopped
        lines = self.lines()
        sent = {name for word, name, _ in lines if word == "sent"}
        state, since = None, time.monotonic()
        while True:
            results, left = self.kept()
            ended = Counter(name for word, name, _ in self.lines() if word == "end")
            missing = sent - (ended.keys() & results)
            if not (missing or left):
                break
            if state != (state := (missing, left, ended)):
                since = time.monotonic()
            elif time.monotonic() > since + (40 if self.ours and left else 10):
                break
            time.sleep(0.5)
        self.worker.stop()
        within = [struck, *(each for each in self.ends() if struck < each < stopped), stopped]
        return Outcome(
            sent=len(sent),
            refused=sum(word == "refused" for word, _, _ in lines),
            lost=len(missing) - min(len(missing), left),
            stuck=min(len(missing), left),
            twice=sum(count > 1 for count in ended.values()),
            pause=max(after - before for before, after in itertools.pairwise(sorted(within))),
            sentinels=named_after,
            call=max(waited, *(seconds for word, _, seconds in lines if word != "end")),
            log=f"{self.worker.output}\n{self.sender.output}",
        )


# --- The faults, each returns how long the sentinels took to name another master --------------


def master_killed(lab: Lab) -> float:
    """Kill the master."""
    master = lab.group.servers[0]
    master.signal(signal.SIGKILL)
    return lab.group.wait_for_master(master)


def planned(lab: Lab) -> float:
    """Let the sentinels hand over while all is well."""
    with lab.group.sentinels[-1].client() as client:
        client.execute_command("SENTINEL", "FAILOVER", sentinels.MASTER)
    took = lab.group.wait_for_master(lab.group.servers[0])
    # The old master takes writes until it is told to follow.
    wait_until(lambda: lab.group.servers[0].role() == "slave", "it does not follow")
    return took


def master_frozen(lab: Lab) -> float:
    """Stop the master for a while; it comes back and does not know what happened."""
    master, start = lab.group.servers[0], time.monotonic()
    master.signal(signal.SIGSTOP)
    took = lab.group.wait_for_master(master)
    time.sleep(max(0, start + FROZEN - time.monotonic()))
    master.signal(signal.SIGCONT)
    wait_until(lambda: master.role() == "slave", "it does not follow")
    return took


def host_lost(lab: Lab) -> float:
    """Kill the master and the first sentinel."""
    lab.group.sentinels[0].signal(signal.SIGKILL)
    return master_killed(lab)


def sentinel_silent(lab: Lab) -> float:
    """Stop the first sentinel for good, and kill the master a while later."""
    lab.group.sentinels[0].signal(signal.SIGSTOP)
    lab.go_on(time.time(), 20)
    return master_killed(lab)


def sentinel_dead(lab: Lab) -> float:
    """Kill the first sentinel, and the master a while later."""
    lab.group.sentinels[0].signal(signal.SIGKILL)
    lab.go_on(time.time(), 20)
    return master_killed(lab)


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    title: str
    strike: Callable[[Lab], float]


TABLE = [
    Fault("the master: SIGKILL", master_killed),
    Fault("a planned failover: `SENTINEL FAILOVER`", planned),
    Fault(f"the master: frozen for {FROZEN} s", master_frozen),
    Fault("a host lost: the master and the first sentinel", host_lost),
    Fault("the first sentinel dead, then the master", sentinel_dead),
    Fault("the first sentinel silent, then the master", sentinel_silent),
]
FAULTS = {fault.strike.__name__: fault for fault in TABLE}


def run(fault: Fault, configuration: str, project: BakedProject) -> Outcome:
    """Do one fault to a project, and count what it has done."""
    with contextlib.ExitStack() as stack:
        lab = Lab(stack, project, configuration)
        lab.go_on(0, DEADLINE)
        struck = time.time()
        named_after = fault.strike(lab)
        lab.go_on(time.time(), 60)
        return lab.outcome(struck, named_after)


def main() -> None:
    """Run what is asked for, one after the other; all of it goes into the README."""
    with servers.session():
        project = generate("redis")
        cells = {}
        for name, configuration in itertools.product(*chosen([*FAULTS], CONFIGURATIONS)):
            outcome = cells[name, configuration] = run(FAULTS[name], configuration, project)
            print(name, configuration, repr(outcome), flush=True)
        if not sys.argv[1:]:
            titles = {name: fault.title for name, fault in FAULTS.items()}
            write_table(MARKS, table(HEAD, titles, cells))


if __name__ == "__main__":
    main()
