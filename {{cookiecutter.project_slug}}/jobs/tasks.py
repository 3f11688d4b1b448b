#% include "{{cookiecutter.__package}}/tasks.py"


@shared_task(ignore_result=True)
def send_waiting(seconds: float) -> None:
    """Send the jobs that have waited for the broker for so many seconds; beat sends this task."""
    services.send_waiting(seconds)
