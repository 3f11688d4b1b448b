"""The figures in the pages, comments and tables are those of the result files."""

import json
import re

from benchmarks import lab, page
from tests import faults
from tests.projects import Bake


def test_each_page_has_the_figures_of_the_results() -> None:
    for path, text in page.texts().items():
        written = "run `uv run --group bench python -m benchmarks.page`"
        assert path.read_text("utf-8") == text, written


def test_each_result_says_on_which_machine_and_with_which_versions() -> None:
    found = sorted(lab.RESULTS.glob("*.json"))
    assert found
    for path in found:
        result = json.loads(path.read_text("utf-8"))
        for part in result.values() if path.stem == "faults" else [result]:
            assert part["date"]
            assert part["machine"]
            assert part["versions"]["celery"]


def test_a_worker_is_held_and_then_timed(synced: Bake) -> None:
    made = synced(project_type="celery", broker="redis", result_backend="redis")
    with lab.contestant(made, "redis", lab.GENERATED, 2) as own:
        done = own.batch(20, 0.01, keep=True)

    assert 0 < done["per_second"] <= 2 / 0.01
    assert done["processor"] > 0


def test_each_plot_of_a_page_is_there() -> None:
    for text in page.texts().values():
        for plot in re.findall(r"\((?:\.\./benchmarks/)?(plots/\S+\.svg)\)", text):
            assert (lab.ROOT / "benchmarks" / plot).exists()


def test_the_tables_of_faults_are_those_that_were_measured() -> None:
    measured = json.loads(faults.MEASURED.read_text("utf-8"))
    text = faults.README.read_text("utf-8")
    tables = re.findall(r"<!-- ([a-z ]*)faults -->\n(.*?)<!-- /", text, re.DOTALL)
    assert {f"{name}faults": table.splitlines() for name, table in tables} == {
        name: each["table"] for name, each in measured.items()
    }
