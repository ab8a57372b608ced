"""The page of a run: one file, with what the tables say and nothing that a name could smuggle in."""

import base64
import re
from html.parser import HTMLParser

import pytest
import torch

from flowzoo.record import Record
from flowzoo.report import make_table, to_html, to_markdown, verdicts, write_figures
from flowzoo.report.table import Cell

SHARED = 20 * torch.randn(300, generator=torch.Generator().manual_seed(0))


def cell(model, log_prob, dataset="maps", notes=(), **metrics):
    values = {"nll_nats": -float(log_prob.double().mean()), "train_steps": 7.0, "train_seconds": 1.5, **metrics}
    record = Record(
        *(dataset, model, 0, "h", "ok"),
        metrics=values,
        split_hash="0123456789abcdef",
        n_train=700,
        n_test=300,
        notes=["dropped 3 rows", *notes],
        config={"model": {"name": model, "num_steps": 3}},
        run={"device": "cpu", "threads": 1, "versions": {"torch": "2.x"}, "finished": "2026-01-01T00:00:00"},
        labels={"context_names": ["Omega_m", "sigma_8"]},
    )
    return Cell(record, {"log_prob": log_prob, "group": torch.arange(300) // 3})


class Balanced(HTMLParser):
    """Every tag that is opened is closed, in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(cells, figures=(), flows=None, command=""):
    text = to_html(cells, make_table(cells), figures, flows or {}, command)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    return text


def test_page_has_the_verdict_the_numbers_and_how_to_load_the_flow():
    cells = [cell("maf", SHARED, calibration_p=1e-9), cell("nsf", SHARED - 1, notes=["training: took all 7 steps"])]
    text = page(cells, flows={"maps.maf.0": "runs/a/checkpoints/maps.maf.0.safetensors"}, command="flowzoo bench ...")
    assert "Take maf" in text
    assert "flowzoo.load(&#34;runs/a/checkpoints/maps.maf.0.safetensors&#34;)" in text
    assert "(Omega_m, sigma_8)" in text
    assert "700 training and 300 test events; split 0123456789ab" in text
    assert text.count("<li>dropped 3 rows</li>") == 1
    assert '<td class="text">training: took all 7 steps</td>' in text
    assert re.search(r'<td class="bad">[^<]*bad</td>', text)
    assert "num_steps: 3" in text
    assert "flowzoo bench ..." in text


def test_figures_are_inside_the_file_each_with_its_dataset(tmp_path):
    cells = [cell("maf", SHARED), cell("nsf", SHARED - 1), cell("maf", SHARED, "maps2"), cell("nsf", SHARED, "maps2")]
    figures = write_figures(cells, tmp_path, make_table(cells))
    assert [path.name for path in figures] == ["nll.maps.png", "nll.maps2.png"]
    text = page(cells, figures)
    first, second = text.split("<h2>maps2</h2>")
    for part, path in ((first, figures[0]), (second, figures[1])):
        assert part.count("<img") == 1
        assert base64.b64encode(path.read_bytes()).decode() in part
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]+", "", text)


def test_names_are_text_and_no_markup():
    text = page([cell("maf", SHARED, notes=["<script>alert(1)</script>"])], command="<img src=x>")
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


def test_markdown_has_the_verdict_below_the_heading():
    table = make_table([cell("maf", SHARED), cell("nsf", SHARED - 1)])
    lines = to_markdown(table, verdicts(table)).splitlines()
    assert lines[0].startswith("### maps, split")
    assert lines[2].startswith("Take maf. maf has the lowest NLL of events that no training saw, ")
    assert sum("Take maf" in line for line in lines) == 1


@pytest.mark.parametrize("cells", [[Cell(Record("maps", "maf", 0, "h", "failed", reason="it broke"), {})]])
def test_failed_runs_have_a_page(cells):
    text = page(cells)
    assert '<td class="bad">failed</td>' in text
    assert "it broke" in text
    assert "Take" not in text
