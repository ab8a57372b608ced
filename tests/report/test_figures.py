import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

import flowzoo
from flowzoo import record as records
from flowzoo.data import configure
from flowzoo.harness import BenchResult
from flowzoo.record import Record
from flowzoo.report import Cell, figures, figures_maps, write_figures
from flowzoo.report._style import context_text, styles, text, width
from flowzoo.report.figures import _plan

LABELS = {
    "names": ["log10 N_HI"],
    "units": ["dex"],
    "context_names": ["Omega_m", "sigma_8"],
    "side": ["25", "Mpc/h"],
}
BYTES = {"names": ["red", "green", "blue"], "levels": ["0", "1", "256"]}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cell(
    model: str = "maf",
    *,
    dataset: str = "maps",
    seed: int = 0,
    contexts: int = 4,
    channels: int = 1,
    shift: float = 0.0,
    gain: float = 1.0,
    labels: dict[str, list[str]] = LABELS,
    **tensors: Tensor | None,
) -> Cell:
    """A finished cell of maps 16 x 24, its draws shifted, its spectra multiplied; None takes a tensor away."""
    context = torch.arange(2.0 * contexts).view(contexts, 2) / 10
    real = torch.arange(1.0, 1 + contexts).view(-1, 1, 1, 1, 1) * noise(contexts, 4, channels, 16, 24)
    k = torch.linspace(0.25, 4, 12, dtype=torch.float64)
    power = torch.arange(1.0, 1 + contexts).view(-1, 1, 1) * k**-2 * torch.ones(channels, 1)
    power = power.squeeze(1)
    scores = {
        "log_prob": torch.zeros(5),
        "group": torch.arange(5),
        "examples.context": context,
        "examples.real": real,
        "examples.drawn": noise(contexts, 4, channels, 16, 24, seed=1) + shift,
        "power_spectrum.context": context,
        "power_spectrum.k": k,
        "power_spectrum.real_mean": power,
        "power_spectrum.real_std": 0.3 * power,
        "power_spectrum.drawn_mean": gain * power,
        "power_spectrum.drawn_std": 0.3 * gain * power,
        "power_spectrum.floor_by_context": torch.full((contexts,), 0.05, dtype=torch.float64),
    }
    changed = {**scores, **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    return Cell(Record(dataset, model, seed, "h", "ok", labels=labels), kept)


def vector_cell() -> Cell:
    return Cell(Record("table", "maf", 0, "h", "ok"), {"log_prob": torch.zeros(3), "group": torch.arange(3)})


def failed(model: str = "nsf") -> Cell:
    return Cell(Record("maps", model, 0, "h", "failed", reason="no memory"), {})


def drawn(stem: str, cells: list[Cell]) -> Figure:
    """One of the figures, without the work for the others."""
    return _plan(cells)[stem]()


def pictures(figure: Figure) -> list[Axes]:
    return [at for at in figure.axes if at.images]


def written(figure: Figure) -> list[str]:
    return [at.get_text() for at in figure.texts]


def lines(at: Axes, colour: str) -> list[list[float]]:
    return [
        list(line.get_ydata()) for line in at.lines if line.get_color() == colour and line.get_linestyle() != "None"
    ]


# -- which figures there are


def test_images_give_two_figures_by_dataset_and_vectors_none() -> None:
    found = figures([cell(), cell("nsf"), cell(dataset="dust"), vector_cell(), failed()])
    assert list(found) == ["maps.maps", "maps.dust", "power.maps", "power.dust"]
    assert figures([vector_cell(), failed()]) == {}
    assert figures([]) == {}


@pytest.mark.parametrize("name", ["examples.context", "examples.real", "examples.drawn"])
def test_cell_without_examples_has_no_gallery_and_keeps_its_spectra(name: str) -> None:
    assert list(figures([cell(**{name.replace(".", "__"): None})])) == ["power.maps"]


@pytest.mark.parametrize("name", ["context", "k", "real_mean", "real_std", "drawn_mean"])
def test_cell_without_spectra_has_its_gallery_alone(name: str) -> None:
    assert list(figures([cell(**{f"power_spectrum__{name}": None})])) == ["maps.maps"]


def test_model_without_draws_is_missing_from_the_figures_of_the_others() -> None:
    found = figures([cell("maf", examples__drawn=None), cell("nsf")])
    assert "nsf" in written(found["maps.maps"])
    assert "maf" not in written(found["maps.maps"])


def test_channels_have_a_figure_each_and_their_names() -> None:
    labels = {**LABELS, "names": ["log10 N_HI", "M/gas"], "units": ["dex", "dex"]}
    found = figures([cell(channels=2, labels=labels)])
    ends = ("log10_N_HI", "M_gas")
    assert list(found) == [f"{kind}.maps.{end}" for kind in ("maps", "power") for end in ends]
    assert "maps (M/gas): real, and drawn at the same context" in written(found["maps.maps.M_gas"])[0]
    assert len(figures([cell(channels=2, labels={})])) == 4


def test_no_pyplot_and_no_figure_of_it(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    write_figures([cell()], tmp_path)
    assert ("matplotlib.pyplot" in sys.modules) == before
    if before:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


# -- the gallery


def test_gallery_has_a_row_of_real_maps_and_one_for_each_model() -> None:
    figure = drawn("maps.maps", [cell("maf"), cell("cglow"), cell("nsf")])
    assert len(pictures(figure)) == 3 * 3 * 4  # contexts, maps, rows
    names = [name for name in written(figure) if name in ("real", "maf", "cglow", "nsf")]
    assert names == ["real", "maf", "cglow", "nsf"]
    assert len(pictures(drawn("maps.maps", [cell(contexts=1)]))) == 1 * 4 * 2
    two = drawn("maps.maps", [cell(examples__drawn=noise(4, 2, 1, 16, 24))])
    assert len(pictures(two)) == 3 * 2 * 2


def test_gallery_shows_the_map_that_was_given() -> None:
    given = {"examples__given": 50 * noise(4, 1, 8, 12), "examples__context": torch.zeros(4, 0)}
    figure = drawn("maps.maps", [cell("maf", **given)])
    assert [name for name in written(figure) if name in ("given", "real", "maf")] == ["given", "real", "maf"]
    assert not any("context of" in content or "no context" in content for content in written(figure))
    images = [at.images[0] for at in pictures(figure)]
    shapes = [image.get_array().shape for image in images]
    assert shapes == [(8, 12)] * 9 + [(16, 24)] * 18
    assert min(image.norm.vmax for image in images[:9]) > 50 > max(image.norm.vmax for image in images[9:])


def test_gallery_says_the_context_the_quantity_and_the_side() -> None:
    figure = drawn("maps.maps", [cell()])
    assert written(figure)[0] == "maps: real, and drawn at the same context; 25 Mpc/h a side"
    titles = [content for content in written(figure) if "Omega" in content]
    assert titles[1] == r"$\Omega_{\mathrm{m}}$ = 0.2, $\sigma_{\mathrm{8}}$ = 0.3"
    bars = [at.get_xlabel() for at in figure.axes if at.get_xlabel()]
    assert bars == [r"log$_{10}$ $N_{\mathrm{HI}}$ [dex]"] * 3


def test_colours_of_a_context_are_those_of_its_real_maps_in_every_row() -> None:
    wild = cell("maf", shift=100.0)
    figure = drawn("maps.maps", [wild, cell("nsf")])
    scales: dict[tuple[float, float], int] = {}
    for at in pictures(figure):
        limits = at.images[0].get_clim()
        scales[limits] = scales.get(limits, 0) + 1
    assert list(scales.values()) == [9, 9, 9]
    for context, (low, high) in enumerate(scales):
        real = wild.scores["examples.real"][context]
        assert low == pytest.approx(float(real.quantile(0.01)), rel=1e-4)
        assert high == pytest.approx(float(real.quantile(0.99)), rel=1e-4)
    assert all(math.isfinite(value) for limits in scales for value in limits)


def test_positive_maps_over_decades_have_colours_by_their_logarithm() -> None:
    real = (3 * noise(4, 4, 1, 16, 24)).exp()
    figure = drawn("maps.maps", [cell(examples__real=real, examples__drawn=-real)])
    assert all(isinstance(at.images[0].norm, LogNorm) for at in pictures(figure))
    shown = [at.images[0].get_array() for at in pictures(figure)[9:]]
    assert not any(array.mask.any() for array in shown)  # beyond the scale, and not missing
    assert not isinstance(pictures(drawn("maps.maps", [cell()]))[0].images[0].norm, LogNorm)


def test_pixel_that_is_not_finite_is_left_out_of_the_scale_and_stands_out() -> None:
    maps = noise(4, 4, 1, 16, 24)
    maps[0, 0, 0, 3, 5] = torch.nan
    maps[0, 0, 0, 4, 5] = torch.inf
    figure = drawn("maps.maps", [cell(examples__drawn=maps)])
    masked = [int(at.images[0].get_array().mask.sum()) for at in pictures(figure)]
    assert sorted(masked)[-2:] == [0, 2]


def test_constant_and_empty_maps_still_have_a_scale() -> None:
    for value in (0.0, 7.0, math.nan):
        figure = drawn("maps.maps", [cell(examples__real=torch.full((4, 4, 1, 16, 24), value))])
        low, high = pictures(figure)[0].images[0].get_clim()
        assert math.isfinite(low)
        assert low < high


def test_bytes_of_three_channels_are_shown_in_colour() -> None:
    real = torch.randint(0, 256, (4, 4, 3, 16, 24), generator=torch.Generator().manual_seed(0))
    maps = real - 200.0
    maps[0, 0, 0, 0, 0] = torch.nan
    found = figures([cell(channels=3, labels=BYTES, examples__real=real, examples__drawn=maps)])
    assert list(found) == ["maps.maps", "power.maps.red", "power.maps.green", "power.maps.blue"]
    array = pictures(found["maps.maps"])[0].images[0].get_array()
    assert array.shape == (16, 24, 3)
    assert torch.equal((torch.from_numpy(array.data) * 255).round().long(), real[0, 0].movedim(0, -1))
    below = pictures(found["maps.maps"])[9].images[0].get_array()
    assert float(below.min()) == 0.0
    assert not [at for at in found["maps.maps"].axes if at.get_xlabel()]  # a bar of colours means nothing here
    assert len(figures([cell(channels=3, labels={})])) == 6  # three fields of no levels are no picture


# -- the power spectra


def test_spectra_are_at_the_lowest_the_middle_and_the_highest_power() -> None:
    figure = drawn("power.maps", [cell(contexts=5)])
    titles = [at.get_title() for at in figure.axes if at.get_title()]
    first = [title.split(",")[0].split("= ")[1] for title in titles]
    assert first == ["0", "0.4", "0.8"]
    assert len(figure.axes) == 6
    assert len(drawn("power.maps", [cell(contexts=2)]).axes) == 4
    assert len(drawn("power.maps", [cell(contexts=1)]).axes) == 2


def test_ratio_is_that_of_the_means_and_its_band_the_floor() -> None:
    known = styles([cell("maf"), cell("nsf")])
    figure = drawn("power.maps", [cell("maf", gain=1.05), cell("nsf", gain=0.9)])
    below = figure.axes[3]
    assert lines(below, known["maf"].colour) == [pytest.approx([1.05] * 12)]
    assert lines(below, known["nsf"].colour) == [pytest.approx([0.9] * 12)]
    band = below.collections[0].get_paths()[0].vertices[:, 1]
    assert (min(band), max(band)) == (pytest.approx(0.95), pytest.approx(1.05))
    above = figure.axes[0]
    assert lines(above, "#000000") == [pytest.approx(cell().scores["power_spectrum.real_mean"][0].tolist())]
    scatter = above.collections[0].get_paths()[0].vertices[:, 1]
    assert max(scatter) == pytest.approx(1.3 * 16)


def test_ratio_without_a_floor_has_no_band() -> None:
    figure = drawn("power.maps", [cell(power_spectrum__floor_by_context=None)])
    assert len(figure.axes[3].collections) == 0
    labels = [entry.get_text() for entry in figure.legends[0].get_texts()]
    assert labels == [r"real maps: mean, 1$\sigma$ of one", "maf"]


def test_bad_baseline_does_not_flatten_the_ratios_of_the_others_and_is_marked() -> None:
    figure = drawn("power.maps", [cell("gaussian", gain=40.0), cell("maf", gain=1.1)])
    low, high = figure.axes[3].get_ylim()
    assert high - low < 0.3
    marks = [line for line in figure.axes[3].lines if line.get_marker() == "^"]
    assert len(marks) == 1
    assert set(marks[0].get_ydata()) == {high}


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e-30])
def test_limits_are_finite_whatever_was_drawn(value: float) -> None:
    power = torch.full((4, 12), value, dtype=torch.float64)
    for at in drawn("power.maps", [cell(power_spectrum__drawn_mean=power), cell("nsf")]).axes:
        assert all(math.isfinite(edge) for edge in (*at.get_xlim(), *at.get_ylim()))


def test_wavenumbers_have_the_unit_of_the_side() -> None:
    name = r"log$_{10}$ $N_{\mathrm{HI}}$"

    def axis(side: list[str]) -> tuple[str, str, float]:
        labels = {k: v for k, v in {**LABELS, "side": side}.items() if v}
        figure = drawn("power.maps", [cell(labels=labels)])
        x = figure.axes[0].lines[0].get_xdata()
        return figure.axes[3].get_xlabel(), figure.axes[0].get_ylabel(), float(x[0])

    assert axis(["25", "Mpc/h"]) == ("$k$  [h/Mpc]", f"$P(k)$ of {name}  [dex$^2$ (Mpc/h)$^2$]", 0.25)
    assert axis(["2", "deg"])[:2] == ("$k$  [deg$^{-1}$]", f"$P(k)$ of {name}  [dex$^2$ deg$^2$]")
    unitless = axis([])
    assert unitless[0] == r"$k$  [2$\pi$ / side]"
    assert unitless[2] == pytest.approx(0.25 / (2 * math.pi))


# -- who is shown


def test_seed_shown_is_the_lowest() -> None:
    figure = drawn("power.maps", [cell(seed=2, gain=1.2), cell(seed=0, gain=1.1), cell(seed=1, gain=1.0)])
    assert lines(figure.axes[3], styles([cell()])["maf"].colour) == [pytest.approx([1.1] * 12)]


def test_model_keeps_its_colour_over_datasets_and_figures() -> None:
    found = figures([cell("maf"), cell("nsf"), cell("nsf", dataset="dust")])
    known = styles([cell("maf"), cell("nsf")])["nsf"].colour
    for stem in ("power.maps", "power.dust"):
        assert known in [line.get_color() for line in found[stem].axes[0].lines]
    for stem in ("maps.maps", "maps.dust"):
        swatches = [patch.get_facecolor() for at in found[stem].axes for patch in at.patches]
        from matplotlib.colors import to_rgba

        assert to_rgba(known) in swatches
    many = styles([cell(f"model{i}") for i in range(20)])
    assert len(set(many.values())) == 20


def test_model_drawn_at_other_contexts_is_left_out_by_name() -> None:
    other = torch.ones(4, 2)
    found = figures([cell("maf"), cell("nsf", examples__context=other, power_spectrum__context=other)])
    note = "left out, because drawn at other contexts: nsf"
    assert note in written(found["maps.maps"])
    assert found["power.maps"].legends[0].get_title().get_text() == note
    assert len(pictures(found["maps.maps"])) == 3 * 3 * 2


# -- text


@pytest.mark.parametrize(
    ("plain", "mathematics"),
    [
        ("Omega_m", r"$\Omega_{\mathrm{m}}$"),
        ("theta1", r"$\theta_{1}$"),
        ("1 + delta", r"1 + $\delta$"),
        ("A_AGN2", r"$A_{\mathrm{AGN2}}$"),
        ("stellar_mass", "stellar_mass"),
        ("Msun kpc^-2", "Msun kpc$^{-2}$"),
        ("10 $ or 20 $", r"10 \$ or 20 \$"),
        ("beta_plus_one", "beta_plus_one"),
        ("pixel", "pixel"),
    ],
)
def test_label_is_mathematics_only_where_it_is_meant(plain: str, mathematics: str) -> None:
    assert text(plain) == mathematics


def test_context_is_written_by_what_it_is() -> None:
    labels = {"context_names": ["mass", "z"], "context_units": ["Msun", ""]}
    assert context_text(torch.tensor([1.234e10, 0.5]), labels, 9.0) == "mass = 1.23e+10 Msun, z = 0.5"
    assert context_text(torch.tensor([1.234e10, 0.5]), labels, 1.0) == "mass = 1.23e+10 Msun,\nz = 0.5"
    assert context_text(torch.tensor([0.0, 0.0, 1.0]), {"context_names": ["cat", "dog", "owl"]}, 9.0) == "owl"
    assert context_text(torch.tensor([0.0, 1.0]), {}, 9.0) == "class 1"
    assert context_text(torch.zeros(0), {}, 9.0) == "no context"
    assert context_text(torch.zeros(1, 8, 8), {}, 9.0) == "context of 1 x 8 x 8"
    assert context_text(torch.arange(9.0) + 2, {}, 99.0).endswith("$c_{\\mathrm{5}}$ = 6, 4 more")


def test_no_text_overlaps_another_or_leaves_the_page() -> None:
    names = [f"stellar_mass_{i}" for i in range(6)]
    labels = {**LABELS, "context_names": names, "context_units": ["Msun"] * 6}
    context = torch.arange(24.0).view(4, 6) * 1.2345e9
    models = ["a", "normflows-spline", "a-model-of-a-very-long-name", *"bcdefgh"]
    cells = [cell(m, labels=labels, examples__context=context, power_spectrum__context=context) for m in models]
    for stem, figure in figures([*cells, cell(dataset="one", contexts=1)]).items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        page = figure.bbox
        found = [*figure.texts, *(at.title for at in figure.axes), *(at.xaxis.label for at in figure.axes)]
        found += [entry for legend in figure.legends for entry in legend.get_texts()]
        boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in found if t.get_text()]
        for i, (one, box) in enumerate(boxes):
            assert box.x0 >= 0, (stem, one)
            assert box.x1 <= page.x1, (stem, one)
            assert box.y0 >= -1, (stem, one)
            assert box.y1 <= page.y1, (stem, one)
            for other, another in boxes[:i]:
                assert not box.overlaps(another), (stem, one, other)


def test_width_of_mathematics_is_that_of_what_is_seen() -> None:
    assert width(r"$\Omega_{\mathrm{m}}$ = 0.3") == pytest.approx(width("Om = 0.3"))


# -- the files


def test_figures_are_written_whole_into_their_folder(tmp_path: Path) -> None:
    paths = write_figures([cell(), vector_cell()], tmp_path)
    assert paths == [tmp_path / "figures" / "maps.maps.png", tmp_path / "figures" / "power.maps.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert sorted((tmp_path / "figures").iterdir()) == sorted(paths)
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_figures([cell(), vector_cell()], tmp_path)] == first


def test_no_images_no_folder(tmp_path: Path) -> None:
    assert write_figures([vector_cell()], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_figure_that_fails_is_one_line_and_the_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Figure:
        raise RuntimeError("no ink\nleft")

    monkeypatch.setattr(figures_maps, "gallery", broken)
    with pytest.warns(RuntimeWarning, match=r"maps.maps.png was not written \(RuntimeError: no ink left\)") as caught:
        assert [path.name for path in write_figures([cell()], tmp_path)] == ["power.maps.png"]
    assert "\n" not in str(caught[0].message)


def test_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file")
    with pytest.warns(RuntimeWarning, match="was not written"):
        assert write_figures([cell()], tmp_path) == []


# -- in a run


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], BenchResult]:
    options = {"size": 16, "num_contexts": 20, "maps_per_context": 4}
    data = configure("fields", options).load()

    def run() -> BenchResult:
        small = {"ensemble_contexts": 3, "ensemble_draws": 8, "draws": 10, "posteriors": 0, "reference_draws": 0}
        out = tmp_path_factory.mktemp("bench")
        return flowzoo.bench(["gaussian"], data, train={"steps": 5}, out=out / "run", show=False, **small)

    return run


def test_bench_of_images_leaves_its_figures_and_says_so(bench: Callable[[], BenchResult]) -> None:
    done = bench()
    assert [path.name for path in done.figures] == ["maps.data.png", "power.data.png"]
    assert all(path.parent == done.path / "figures" for path in done.figures)
    assert "`figures/*.png`" in (done.path / "README.md").read_text()
    known = records.load(done.path / "cells" / "data.gaussian.0.json")
    theta = ["Omega_m", "sigma_8"]
    assert known.labels == {"names": ["g"], "context_names": theta, "theta_names": theta, "side": ["25", "Mpc/h"]}


def test_bench_outlives_its_figures(bench: Callable[[], BenchResult], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Figure, *args: Any, **kwargs: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.warns(RuntimeWarning, match="was not written"):
        done = bench()
    assert done.figures == []
    assert done.failed == []
    assert (done.path / "table.csv").exists()


def test_record_without_labels_loads_and_is_drawn(tmp_path: Path) -> None:
    path = records.save(dataclasses.replace(cell().record, labels={}), tmp_path, cell().scores)
    assert len(figures([Cell(records.load(path), records.load_scores(path))])) == 2
