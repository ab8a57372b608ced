"""The folder is the registry: names without imports, one import a look-up, faults that name what to do."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from flowzoo import registry
from flowzoo.registry import DATASETS, METRICS, MODELS, MissingDependency, Registry, UnknownName


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package ``zoo.animals`` with entries, a helper, an entry that needs a package, and an empty one."""
    package = tmp_path / "zoo" / "animals"
    package.mkdir(parents=True)
    for place in (tmp_path / "zoo", package):
        (place / "__init__.py").write_text("")
    (package / "_helper.py").write_text("raise RuntimeError('helpers are not entries')")
    (package / "grey_seal.py").write_text("from zoo import ANIMALS\n@ANIMALS.register\nclass Seal: pass\n")
    (package / "needy.py").write_text("import no_such_package_at_all\n")
    (package / "empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "zoo" / "registry.py"))
    made = Registry("animal", "zoo.animals", "zoo.animals", separator="-", aliases={"robbe": "grey-seal"})
    import zoo

    zoo.ANIMALS = made
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == "zoo"]:
        del sys.modules[name]


def test_names_are_the_files_without_the_helpers(folder):
    assert folder.names() == ["empty", "grey-seal", "needy"]


def test_look_up_imports_one_module_and_no_other(folder):
    assert folder.get("grey-seal").__name__ == "Seal"
    assert "zoo.animals.grey_seal" in sys.modules
    assert "zoo.animals.needy" not in sys.modules


@pytest.mark.parametrize("spelling", ["grey-seal", "grey_seal", "Grey-Seal", "robbe", "ROBBE"])
def test_every_spelling_finds_the_same_class(folder, spelling):
    found = folder.get(spelling)
    assert found is folder.get("grey-seal")
    assert folder.name_of(found) == folder.name_of(found()) == "grey-seal"


def test_misspelt_name_suggests_the_nearest(folder):
    with pytest.raises(UnknownName, match=r"unknown animal 'gray-seal': did you mean grey-seal\?"):
        folder.get("gray-seal")


def test_name_like_no_other_lists_all(folder):
    with pytest.raises(UnknownName, match=r"unknown animal 'xyz': known animals are empty, grey-seal, needy$"):
        folder.get("xyz")


def test_missing_package_breaks_its_own_entry_only_and_is_named(folder):
    with pytest.raises(MissingDependency, match="animal 'needy' needs the package 'no_such_package_at_all'"):
        folder.get("needy")
    assert folder.get("grey-seal")


def test_module_that_registers_nothing_says_so(folder):
    with pytest.raises(UnknownName, match=r"zoo\.animals\.empty registers no animal"):
        folder.get("empty")


def test_two_modules_of_one_name_are_refused(folder):
    folder.get("grey-seal")
    impostor = type("Impostor", (), {"__module__": "elsewhere.grey_seal"})
    with pytest.raises(ValueError, match="'grey-seal' is registered twice"):
        folder.register(impostor)


@dataclass(frozen=True)
class Outside:
    pass


def test_third_parties_join_by_entry_point(folder, monkeypatch):
    point = EntryPoint("walrus", f"{__name__}:Outside", "zoo.animals")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or type(sys)(__name__))
    monkeypatch.setattr(sys.modules[__name__], "Outside", Outside, raising=False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "zoo.animals" else [])
    assert "walrus" in folder.names()
    assert folder.get("walrus") is Outside
    assert folder.name_of(Outside()) == "walrus"


def test_names_import_neither_torch_nor_an_entry():
    code = (
        "import sys\n"
        "from flowzoo.registry import DATASETS, METRICS, MODELS\n"
        "assert MODELS.names() and DATASETS.names() and METRICS.names()\n"
        "print([m for m in sys.modules if m in ('torch', 'zuko') or m.startswith('flowzoo.models')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("of", [MODELS, DATASETS, METRICS])
def test_every_name_of_the_house_resolves_to_itself_and_loads(of):
    for name in of.names():
        assert of.resolve(name) == name
        assert of.name_of(of.get(name)) == name


def test_cnf_is_what_the_field_calls_galacticflow():
    assert MODELS.get("cnf") is MODELS.get("galacticflow")
