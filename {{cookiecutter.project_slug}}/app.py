#% include "app/" ~ ("none" if cookiecutter.result_backend == "none" else "kept") ~ ".py"
