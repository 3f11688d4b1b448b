"""`python -m benchmarks [--quick] [--template PATH …] [NAME …]`: measure, and write the page."""

import argparse
from pathlib import Path

from benchmarks import (
    first_result,
    generation,
    lab,
    latency,
    long_run,
    page,
    producers,
    reload,
    scale,
    throughput,
)
from tests import servers

BENCHMARKS = {
    "generation": generation.run,
    "first_result": first_result.run,
    "throughput": throughput.run,
    "latency": latency.run,
    "producers": producers.run,
    "reload": reload.run,
    "scale": scale.run,
    "long_run": long_run.run,
}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description="Measure, and write the page of the results.")
    parser.add_argument("name", nargs="*", choices=[[], *BENCHMARKS], help="all, if none is named")
    parser.add_argument("--quick", action="store_true", help="minutes, with fewer rounds")
    parser.add_argument("--template", type=Path, action="append", default=[])
    words = parser.parse_args()
    generation.OTHERS.extend(words.template)
    with servers.session() as directory:
        for name in words.name or BENCHMARKS:
            lab.say("---", name)
            BENCHMARKS[name](directory, quick=words.quick)
    page.main()


if __name__ == "__main__":
    main()
