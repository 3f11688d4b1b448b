#% include "jobs/states/" ~ cookiecutter.result_backend ~ ".py"
