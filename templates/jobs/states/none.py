"""The states of jobs. Results are not kept: only the log of a worker tells how a job ended."""

from collections.abc import Sequence
from typing import NamedTuple

from .models import Job


class State(NamedTuple):
    """The state of a job."""

    # SENT, or UNSENT.
    state: str


def read_states(jobs: Sequence[Job]) -> list[State]:
    """Return the state of each of ``jobs``."""
    return [State("SENT" if job.sent else "UNSENT") for job in jobs]
