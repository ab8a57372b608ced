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


def defined(name, module="script", **attributes):
    """A class as if some module defined it."""
    return type(name, (), {"__module__": module, **attributes})


# -- a script or a notebook


def test_class_of_a_script_is_found_by_its_name_in_lower_case(folder):
    otter = folder.register(defined("Otter"))
    assert folder.names() == ["empty", "grey-seal", "needy", "otter"]
    assert folder.get("Otter") is otter
    assert folder.name_of(otter) == folder.name_of(otter()) == "otter"
    assert folder.local() == ["otter"]


def test_class_of_a_script_takes_the_name_that_it_is_given(folder):
    otter = folder.register(name="sea_otter")(defined("Otter"))
    assert folder.get("sea-otter") is folder.get("sea_otter") is otter
    assert folder.local() == ["sea-otter"]


def test_what_is_found_in_the_folder_is_not_local(folder):
    folder.get("grey-seal")
    assert folder.local() == []


def test_cell_of_a_notebook_may_be_run_twice(folder):
    folder.register(defined("Otter", "__main__"))
    again = folder.register(defined("Otter", "__main__"))
    assert folder.get("otter") is again


@pytest.mark.parametrize("name", ["grey-seal", "grey_seal", "robbe"])
def test_name_of_the_folder_is_not_taken_by_a_script(folder, name):
    with pytest.raises(ValueError, match=r"exists.*give another, ANIMALS.register\(name=...\)"):
        folder.register(name=name)(defined("Impostor"))
    assert folder.get(name).__name__ == "Seal"


def test_two_classes_of_one_name_are_refused(folder):
    folder.register(defined("Otter"))
    with pytest.raises(ValueError, match="'otter' is registered twice"):
        folder.register(defined("Otter", "another_script"))


@pytest.mark.parametrize("name", ["", "Otter", "sea otter", "../otter", "a.b"])
def test_name_that_is_none_is_refused(folder, name):
    with pytest.raises(ValueError, match="of lower-case letters, digits, - and _; got"):
        folder.register(name=name)(defined("Otter"))


def test_class_that_is_not_registered_has_no_name(folder):
    seal = folder.get("grey-seal")
    with pytest.raises(UnknownName, match=r"Pup is no registered animal: decorate the class with ANIMALS.register"):
        folder.name_of(type("Pup", (seal,), {}))  # not even that of its parent


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
    assert folder.local() == []


def test_decorator_of_a_package_gives_the_name_of_its_entry_point(folder, monkeypatch):
    point = EntryPoint("sea-lion", "pinnipeds.lions:Lion", "zoo.animals")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    lion = folder.register(defined("Lion", "pinnipeds.lions"))
    assert folder.names() == ["empty", "grey-seal", "needy", "sea-lion"]  # and no "lion": it would count twice
    assert folder.get("sea-lion") is lion
    assert folder.local() == []
    with pytest.raises(ValueError, match="'lion' has the entry point 'sea-lion'; give both one name"):
        folder.register(name="lion")(defined("Lion", "pinnipeds.lions"))


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
