#% include "{{cookiecutter.__package}}/tasks.py"


@shared_task(ignore_result=True)
def send_waiting(seconds: float) -> None:
    """Send the jobs that have waited longer for the broker; beat sends this one."""
    services.send_waiting(seconds)
