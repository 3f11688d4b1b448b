#% include "{{cookiecutter.__package}}/tasks.py"
