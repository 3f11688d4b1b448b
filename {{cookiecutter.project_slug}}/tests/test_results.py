"""Results: what a task returned comes back to its sender."""

import pytest

#= from {{ cookiecutter.__tasks }} import add, report

#= pytestmark = pytest.mark.usefixtures("worker"{{ ', "transactional_db"' if cookiecutter.project_type == "django" }})


def test_a_result_comes_back_to_the_sender() -> None:
    """The result backend keeps what the task returned."""
    assert add.delay(2, 3).get(timeout=60) == 5
    assert report.delay(2).get(timeout=60) == {"pages": 2}
