    # Sends jobs that were not sent in so many seconds: by then, their senders have given up.
    "send-waiting-jobs": {
        "task": "jobs.tasks.send_waiting",
        "schedule": timedelta(seconds=30),
        "args": (30,),
    },
