"""The probe: what it says, and that it needs nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime import health
from tests.projects import BakedProject


def age(name: str, seconds: float) -> None:
    """Make a file of that age."""
    file = health.heartbeat_file(name)
    file.touch()
    then = time.time() - seconds
    os.utime(file, (then, then))


@pytest.mark.parametrize("name", ["worker", "beat"])
@pytest.mark.parametrize(
    ("seconds", "ready", "alive"),
    [(0, 0, 0), (15, 0, 0), (25, 1, 0), (290, 1, 0), (310, 1, 1)],
)
def test_a_file_s_age_tells_what_is_ready_and_what_is_alive(
    capsys: pytest.CaptureFixture[str], name: str, seconds: float, ready: int, alive: int
) -> None:
    age(name, seconds)
    assert health.main([name]) == ready
    assert health.main(["--live", name]) == alive
    assert health.main([name, "--live"]) == alive
    said = capsys.readouterr()
    assert said.err == ""
    assert len(said.out.splitlines()) == 3
    assert f"{name}: last sign of life {seconds:.0f} s ago" in said.out


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_without_a_file_nothing_is_ready_and_nothing_is_to_be_restarted(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert health.main([name]) == 1
    assert health.main(["--live", name]) == 0
    assert capsys.readouterr().out.count("starting, or the broker cannot be reached\n") == 2


@pytest.mark.parametrize("arguments", [[], ["web"], ["worker", "beat"], ["--live"], ["--dead"]])
def test_a_wrong_call_says_how_it_is_called(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert health.main(arguments) == 2
    assert capsys.readouterr() == ("", "usage: health.py [--live] worker|beat\n")


def test_the_file_lies_where_the_environment_says_or_in_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert health.heartbeat_file("beat") == tmp_path / "beat.heartbeat"
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("HEARTBEAT_DIR")
        else:
            monkeypatch.setenv("HEARTBEAT_DIR", value)
        project = Path(health.__file__).parents[2]
        assert health.heartbeat_file("beat") == project / "beat.heartbeat"


def test_it_runs_by_its_path_and_without_any_package(small_project: BakedProject) -> None:
    (small_project.path / "worker.heartbeat").touch()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "service/runtime/health.py", "worker"],
        cwd=small_project.path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("worker: last sign of life 0 s ago")
