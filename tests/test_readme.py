"""What README and docs say to type can be typed: commands, options and files that are named exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flowzoo import cli
from flowzoo.autoencoder import AutoencoderConfig
from flowzoo.config import fields
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.registry import DATASETS, METRICS, MODELS
from flowzoo.train import FitConfig
from flowzoo.tune import TuneConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = {"train": FitConfig, "bench": BenchConfig, "tune": TuneConfig, "embed": AutoencoderConfig}
OWN = ("run.yaml", "bench.yaml", "FILE")  # files of a reader's own
LISTS = {"models": MODELS, "datasets": DATASETS, "metrics": METRICS}


def commands(page: Path) -> list[str]:
    """Every command of flowzoo in a page: lines of its code, and what stands in backticks with an argument."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"```.*?\n(.*?)```", text, flags=re.DOTALL))
    lines = [*re.findall(r"^(flowzoo .*)", fenced, re.MULTILINE), *re.findall(r"^    (flowzoo .*)", text, re.MULTILINE)]
    return [*lines, *re.findall(r"`(flowzoo [^`\n]+)`", text)]


COMMANDS = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in dict.fromkeys(commands(page))]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_in_the_docs_can_be_typed(line: str) -> None:
    name, *words = shlex.split(re.split(r" (?:\|\||>) ", line)[0], comments=True)[1:]
    known: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    if name == "--help":
        return
    assert name in known
    if name in LISTS and words:
        assert words == ["NAME"] or LISTS[name].resolve(words[0])
        return
    options = {option for part in known[name].params for option in part.opts}
    assert {word for word in words if word.startswith("--")} <= options
    # What a sentence leaves out, `--set ...` or an argument that is needed, is no fault.
    kept: list[str] = []
    for word in words:
        if word != "...":
            kept.append(word)
        elif kept and kept[-1].startswith("--"):
            kept.pop()
    given = known[name].make_context(name, kept, resilient_parsing=True).params
    file = yaml_of(given.get("config"))
    yaml_of(given.get("cluster"))
    chosen = {"data": datasets(given, file), "model": models(given, file)}
    for text in given.get("sets") or ():
        prefix, option = text.split("=")[0].split(".")
        classes = chosen.get(prefix) or [SECTIONS.get(prefix) or MODELS.get(prefix)]
        assert any(option in fields(cls) for cls in classes), text


def yaml_of(path: Path | None) -> dict[str, Any]:
    """The content of a file of ours; of a reader's own nothing is known."""
    if path is None or str(path) in OWN or path.parts[0] == "runs":
        return {}
    content: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return content


def datasets(given: dict[str, Any], file: dict[str, Any]) -> list[type]:
    told = file.get("data", "digits")
    names = given["data"].split(",") if given.get("data") else [told["name"] if isinstance(told, dict) else told]
    return [DATASETS.get(name) for name in names]


def models(given: dict[str, Any], file: dict[str, Any]) -> list[type]:
    named = given.get("models") or given.get("model") or ",".join(file.get("models", ()))
    return [MODELS.get(name) for name in named.split(",") if name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http", "#")):
            continue
        file, _, anchor = target.partition("#")
        assert (page.parent / file).exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", (page.parent / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads]


def python_of(page: str) -> list[str]:
    """The Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def runs(code: str, folder: Path) -> str:
    """What a script prints, in a process of its own: it registers and imports what it likes."""
    (folder / "script.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1, 2], ids=["flow", "dataset", "metric"])
def test_example_of_contributing_passes_its_suite(tmp_path: Path, which: int) -> None:
    code = python_of("CONTRIBUTING.md")[which]
    kind, name = (("flow", "shift"), ("dataset", "ring"), ("metric", "medianscore"))[which]
    runs(f"from flowzoo.testing import check_{kind}\n{code}\ncheck_{kind}({name!r})\n", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_python_of_the_readme_runs(tmp_path: Path) -> None:
    assert "torch.Size([100, 5])" in runs(python_of("README.md")[0], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_numbers_of_fields_are_what_its_script_prints(tmp_path: Path) -> None:
    said = runs(python_of("docs/fields.md")[1], tmp_path)
    page = (ROOT / "docs/fields.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"\| (gaussian|lognormal)[^|]* \| ([\d.]+ \+- [\d.]+) \|", page))
    assert dict(re.findall(r"(gaussian|lognormal): ([\d.]+ \+- [\d.]+)", said)) == table
