"""What happens when nodes of a RabbitMQ cluster are lost: done to a generated project, and counted.

`make faults` runs all of it, beside the configuration of the usual tutorial, and writes the second
table of the README; `test_cluster.py` asserts what must hold for the generated project. Words
behind ``python -m tests.cluster_faults`` choose some of it (``ours leader_killed``): only all
faults are written.
"""

import contextlib
import itertools
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests import faults, servers
from tests.cluster import Cluster, Node
from tests.projects import BakedProject
from tests.service import DEADLINE, Process, Service, wait_until

HEAD = "lost / stuck / run twice; pause; longest call"
MARKS = ("<!-- cluster faults -->\n", "<!-- /cluster faults -->")
AWAY = 20.0  # seconds
STANDSTILL = 60.0  # seconds after which what is left is stuck


@dataclass
class Outcome:
    """What a fault has left behind."""

    lost: int  # accepted, and neither done nor in the broker
    stuck: int  # accepted and not done, but in the broker
    twice: int
    pause: float  # the longest time without the end of a task, in seconds
    longest: float  # call of `delay`, in seconds
    errors: list[str] = field(repr=False)  # of the calls that failed
    ended: int  # workers that did not outlive the fault

    def __str__(self) -> str:
        """Return the cell of the table."""
        cell = (
            f"{self.lost} / {self.stuck} / {self.twice}; {self.pause:.0f} s; {self.longest:.0f} s"
        )
        cell += f"; failed calls: {len(self.errors)}" if self.errors else ""
        return cell + (f"; workers ended: {self.ended}" if self.ended else "")


class Lab:
    """A generated project with two workers and a sender, all connected to the first node."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        cluster: Cluster,
        project: BakedProject,
        kind: str,
        home: Node,
    ) -> None:
        """Start all of it; the queue's leader is at ``home``."""
        self.cluster = cluster
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        shutil.copy(Path(__file__).with_name("fault_tasks.py"), self.directory)
        self.notes = self.directory / "notes"
        self.notes.touch()
        self.queue = "celery" if kind == "naive" else "my_service"
        self.python = project.path / ".venv" / "bin" / "python"
        environment = {
            "PYTHONPATH": str(self.directory),
            "FAULTS_DIRECTORY": str(self.directory),
            "FAULTS_CONFIGURATION": kind,
            "HEARTBEAT_DIR": str(self.directory),
        }
        service = Service(project, cluster.url, "disabled://", environment)
        self.service = stack.enter_context(service)
        self.code("declare()", CELERY_BROKER_URL=home.url)
        self.ended = 0
        self.workers = [self.worker(), self.worker()]
        self.sender = self.code("send_steps()", wait=False)
        self.progress(20)

    def code(self, code: str, *, wait: bool = True, **env: str) -> Process:
        """Run code of the tasks' module."""
        words = (self.python, "-c", f"import fault_tasks; fault_tasks.{code}")
        process = self.service.start(*words, env=env)
        if wait:
            assert process.process.wait(DEADLINE) == 0, process.output
        return process

    def worker(self) -> Process:
        """Start one more worker."""
        name = f"w{len(self.service.processes)}"
        options = ("--loglevel", "INFO", "--concurrency", "2", "-n", name)
        command = (self.python, "-m", "celery", "-A", "fault_tasks", "worker")
        return self.service.start(*command, *options, ready=r" ready\.")

    def ends(self) -> list[tuple[str, float]]:
        """Return the ends of the tasks of the stream: the name, and when."""
        lines = (line.split() for line in self.notes.read_text().splitlines())
        return [(name, float(when)) for when, name, _ in lines if when[0].isdigit()]

    def calls(self) -> list[tuple[str, float, str]]:
        """Return the calls: the name of the task, how long it took, and the error if it failed."""
        lines = (self.directory / "calls").read_text().splitlines()
        calls = [line.split(" ", 2) for line in lines if line.count(" ") > 1]
        return [(name, float(seconds), error) for name, seconds, error in calls]

    def progress(self, count: int, patience: float = DEADLINE) -> None:
        """Wait until so many more tasks have ended, or for so long."""
        before, limit = len(self.ends()), time.monotonic() + patience
        while len(self.ends()) < before + count and time.monotonic() < limit:
            self.replace()
            time.sleep(0.1)

    def replace(self) -> None:
        """Start a worker for each one that has ended, as a supervisor does."""
        for number, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                self.ended += 1
                self.workers[number] = self.worker()

    def last(self) -> float:
        """Return when the last task ended."""
        return max(when for _, when in self.ends())

    def outcome(self, start: float) -> Outcome:
        """Send nothing more, wait until all is done or nothing goes on, and count."""
        (self.directory / "enough").touch()
        wait_until(lambda: self.sender.process.poll() is not None, "the sender does not end")
        calls = self.calls()
        accepted = {name for name, _, error in calls if not error}
        seen, since = -1, time.monotonic()
        while True:
            self.replace()
            done = Counter(name for name, _ in self.ends())
            missing = accepted - done.keys()
            if not missing or (done.total() == seen and time.monotonic() > since + STANDSTILL):
                break
            if done.total() != seen:
                seen, since = done.total(), time.monotonic()
            time.sleep(0.2)
        left = self.cluster.messages(self.queue) if missing else 0
        # From the last end before the fault on.
        times = sorted(when for _, when in self.ends())
        times = times[max(sum(when < start for when in times) - 1, 0) :]
        return Outcome(
            lost=max(len(missing) - left, 0),
            stuck=min(len(missing), left),
            twice=sum(count > 1 for count in done.values()),
            pause=max((b - a for a, b in itertools.pairwise(times)), default=0),
            longest=max(seconds for _, seconds, _ in calls),
            errors=[error for _, _, error in calls if error],
            ended=self.ended,
        )


# --- The faults -------------------------------------------------------------------------------


def first_killed(lab: Lab) -> None:
    """Kill the node that all are connected to, and start it again."""
    away(lab, lab.cluster.nodes[0])


def first_lost(lab: Lab) -> None:
    """Kill the node that all are connected to, for good."""
    lab.cluster.nodes[0].kill()


def leader_killed(lab: Lab) -> None:
    """Kill the node with the leader of the queue, and start it again."""
    away(lab, lab.cluster.nodes[1])


def stopped(lab: Lab) -> None:
    """Stop the node that all are connected to, and start it again."""
    lab.cluster.nodes[0].stop()
    time.sleep(AWAY)
    lab.cluster.start(lab.cluster.nodes[0])


def two_killed(lab: Lab) -> None:
    """Kill all but the last node, and start them again."""
    away(lab, *lab.cluster.nodes[:2])


def rolling(lab: Lab) -> None:
    """Restart one node after the other."""
    for node in lab.cluster.nodes:
        node.stop()
        lab.cluster.start(node)
        lab.cluster.in_sync()


def drained(lab: Lab) -> None:
    """Drain one node after the other, as before its upgrade."""
    for node in lab.cluster.nodes:
        # 3.10 fails if a connection that it closes has just ended.
        lab.cluster.wait(partial(drain, node), "the node is not drained")
        lab.progress(100, 20)
        node.run("rabbitmq-upgrade", "revive")
        lab.progress(20, 20)


def drain(node: Node) -> bool:
    """Drain a node; tell whether that worked."""
    with contextlib.suppress(AssertionError):
        node.run("rabbitmq-upgrade", "drain")
        return True
    return False


def frozen(lab: Lab, seconds: float = 15) -> None:
    """Freeze the node that all are connected to: it accepts connections, and says nothing."""
    node = lab.cluster.nodes[0]
    node.signal(signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        node.signal(signal.SIGCONT)


def frozen_long(lab: Lab) -> None:
    """Freeze it for two minutes."""
    frozen(lab, 120)


def away(lab: Lab, *nodes: Node) -> None:
    """Kill some nodes, and start them again."""
    for node in nodes:
        node.kill()
    time.sleep(AWAY)
    lab.cluster.start(*nodes)


FAULTS: dict[str, tuple[str, Callable[[Lab], None]]] = {
    "first_killed": ("the node that all are connected to: SIGKILL, back after 20 s", first_killed),
    "first_lost": ("the same, and it stays away", first_lost),
    "leader_killed": ("the leader of the queue: SIGKILL, back after 20 s", leader_killed),
    "stopped": ("the node that all are connected to: stopped for 20 s", stopped),
    "two_killed": ("two of three: SIGKILL, back after 20 s", two_killed),
    "rolling": ("each node in turn: restart", rolling),
    "drained": ("each node in turn: `rabbitmq-upgrade drain`", drained),
    "frozen": ("the node that all are connected to: frozen for 15 s", frozen),
    "frozen_long": ("the same for 120 s", frozen_long),
}


def run(cluster: Cluster, fault: str, kind: str, project: BakedProject) -> Outcome:
    """Do one fault to a generated project on a whole cluster, and count what it has done."""
    with contextlib.ExitStack() as stack:
        cluster.mend("celery", "my_service")
        # Of the two, a fault hits only the one that it names.
        lab = Lab(stack, cluster, project, kind, home=cluster.nodes[1])
        start = time.time()
        FAULTS[fault][1](lab)
        lab.progress(100, 60)
        return lab.outcome(start)


# --- The table --------------------------------------------------------------------------------


def main() -> None:
    """Run what is asked for; all of it goes into the README."""
    with servers.session():
        project = faults.generate("rabbitmq")
        names, kinds = faults.chosen([*FAULTS], faults.CONFIGURATIONS)
        cells = {}
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="nodes-"))
            cluster = Cluster(stack, Path(directory))
            cluster.join()
            for name, kind in itertools.product(names, kinds):
                cells[name, kind] = run(cluster, name, kind, project)
                print(name, kind, cells[name, kind], *set(cells[name, kind].errors), flush=True)
        if len(names) == len(FAULTS):
            titles = {name: title for name, (title, _) in FAULTS.items()}
            faults.write_table(MARKS, faults.table(HEAD, titles, cells))


if __name__ == "__main__":
    main()
