#% include "tests/test_states/" ~ ("none" if cookiecutter.result_backend == "none" else "kept") ~ ".py"
