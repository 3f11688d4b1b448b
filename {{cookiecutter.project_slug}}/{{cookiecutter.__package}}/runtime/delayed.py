"""The command for delayed tasks: `python -m <package>.runtime.delayed`.

It counts the tasks that wait in Redis for their `countdown` or `eta`, and lists the next hundred.
"""

import sys
from datetime import datetime
from typing import Any

from celery.app.utils import find_app
from kombu.exceptions import OperationalError


def main() -> str | None:
    """Run the command; what is returned is an error."""
    app: Any = find_app(str(__package__).rpartition(".")[0])
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1)
            channel: Any = connection.default_channel
            for queue in sorted({*app.amqp.queues, *channel.delayed_queues()}):
                for due, message in channel.delayed(queue):
                    headers = message["headers"]
                    when = datetime.fromtimestamp(due, app.timezone).isoformat(" ", "seconds")
                    print(f"{when} {headers.get('task')}[{headers.get('id')}]")
                print(f"{channel.delayed_count(queue)} delayed in {queue}")
    except OperationalError as error:
        return f"The broker cannot be reached: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
