"""What the presets generate: a page for each in `docs/samples/`, written by `make samples`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import yaml

from demo import generate, read
from tests.projects import TEMPLATE, BakedProject

SAMPLES = TEMPLATE / "docs" / "samples"
PRESETS: dict[str, dict[str, str]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["default_context"]
    for path in sorted((TEMPLATE / "presets").glob("*.yaml"))
}


def tree(files: set[PurePosixPath], indent: str = "") -> Iterator[str]:
    """Draw files as a tree, directories first."""
    beneath: dict[str, set[PurePosixPath]] = {}
    for file in files:
        beneath.setdefault(file.parts[0], set())
        if len(file.parts) > 1:
            beneath[file.parts[0]].add(PurePosixPath(*file.parts[1:]))
    names = sorted(beneath, key=lambda name: (not beneath[name], name.casefold()))
    for name in names:
        last = name == names[-1]
        yield f"{indent}{'└' if last else '├'}── {name}{'/' if beneath[name] else ''}"
        yield from tree(beneath[name], f"{indent}{' ' if last else '│'}   ")


def shown(project: BakedProject) -> Iterator[tuple[str, str, str]]:
    """Yield the files that matter most: name, language and text."""
    settings = f"{project.package}/settings.py"
    if settings in project.files():
        _, celery = project.read(settings).split("# === Celery", 1)
        yield f"{settings}, the part for Celery", "python", f"# === Celery{celery}"
        yield "jobs/tasks.py", "python", project.read("jobs/tasks.py")
    else:
        for name in ("celeryconfig.py", "tasks.py"):
            path = f"{project.package}/{name}"
            yield path, "python", project.read(path)
    if "compose.yaml" in project.files():
        yield "compose.yaml", "yaml", project.read("compose.yaml")


def page(name: str, project: BakedProject) -> str:
    """Return what a preset generates, as Markdown."""
    preset = f"presets/{name}.yaml"
    sentence = (TEMPLATE / preset).read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    files = tree({PurePosixPath(file) for file in project.files()})
    blocks = [f"# {name}\n\n{sentence}", f"From [{preset}](../../{preset}), by `make samples`."]
    blocks += ["\n".join(["```text", f"{project.path.name}/", *files, "```"])]
    blocks += [f"## {title}\n\n```{kind}\n{text}```" for title, kind, text in shown(project)]
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Write all pages."""
    SAMPLES.mkdir(parents=True, exist_ok=True)
    for old in SAMPLES.glob("*.md"):
        old.unlink()
    with tempfile.TemporaryDirectory() as directory:
        for name, answers in PRESETS.items():
            project = generate(read([]) | answers, Path(directory, name))
            (SAMPLES / f"{name}.md").write_text(page(name, project), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
