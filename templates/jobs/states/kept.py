# What the page calls a state; one that is not listed is shown by its name.
WORDS = {
    "UNSENT": "Waiting for the broker",
    "PENDING": "Waiting",
    "STARTED": "Running",
    "PROGRESS": "Running",
    "RETRY": "Will be retried",
    "SUCCESS": "Done",
    "FAILURE": "Failed",
    "REVOKED": "Cancelled",
    "EXPIRED": "No longer known",
}


class State(NamedTuple):
    """The state of a job."""

    # A state of Celery's, or UNSENT, or EXPIRED if the result is no longer kept.
    state: str
    # The value of a task that is done, or the progress of one that is running.
    result: Any = None
    # Why the task failed, or why it will be tried again.
    error: str | None = None

    @property
    def words(self) -> str:
        """Return the state in the words of the page."""
        return WORDS.get(self.state, self.state.capitalize())

    @property
    def is_final(self) -> bool:
        """Return whether the state will not change."""
        return self.state in READY_STATES | {"EXPIRED"}


def state_of(job: Job, meta: dict[str, Any] | None) -> State:
    """Return the state of ``job`` from ``meta``, what the result backend keeps of it, if anything.

    Without it, the job waits for a worker, or has waited longer than results are kept.
    """
    if meta is None:
        if not job.sent:
            return State("UNSENT")
        expired = timezone.now() - job.created > current_app.conf.result_expires
        return State("EXPIRED" if expired else "PENDING")
    if isinstance(meta["result"], BaseException):
        return State(meta["status"], error=str(meta["result"]) or repr(meta["result"]))
    return State(meta["status"], meta["result"])
