"""The pages in `docs/samples/` show what the presets generate now."""

import pytest

from tests.projects import Bake
from tests.samples import PRESETS, SAMPLES, page


@pytest.mark.parametrize("name", PRESETS)
def test_the_sample_of_each_preset_is_fresh(bake: Bake, name: str) -> None:
    sample = SAMPLES / f"{name}.md"
    if not sample.exists() or sample.read_text("utf-8") != page(name, bake(**PRESETS[name])):
        pytest.fail(f"{sample.name} is stale: run `make samples`, and commit docs/samples")


def test_there_is_no_sample_without_a_preset() -> None:
    assert {path.name for path in SAMPLES.iterdir()} == {f"{name}.md" for name in PRESETS}
