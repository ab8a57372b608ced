"""Plain YAML: nothing is executed, no key is given twice, and no file of a few lines stands for gigabytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[Any, ...]  # of keys and positions, from the top
MOST = 100_000  # characters of a file, and values that it may stand for with every alias written out
_DIGITS = 100  # of a number


def problem(error: Exception) -> str:
    """What is wrong with a text, in one line, without its place."""
    if isinstance(error, RecursionError):
        return "nested too deeply to be options"
    text = getattr(error, "problem", None) or " ".join(str(error).split())
    if not isinstance(error, yaml.YAMLError | ValueError):  # of a tag on what does not fit it
        return f"not plain YAML ({type(error).__name__}: {text})"
    cure = "; only plain YAML is read" if isinstance(error, yaml.constructor.ConstructorError) else ""
    if text.endswith("but got '['"):
        cure = "; within {...} a name with brackets needs quotes: {'theta[0]': ...}"
    elif re.match(r"'[^(]*\)' is given twice", text):  # the end of uniform(0, 1)
        cure = "; within {...} a text with a comma needs quotes: {a: 'uniform(0, 1)'}"
    return f"{text}{cure}"


class Loader(yaml.SafeLoader):
    """YAML's safe loader, which also knows the line of every key, takes none twice, and refuses a bomb of aliases.

    Aliases of aliases take no memory here, but would in the first copy or message that writes them out.
    """

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        _written_out(node, {})
        self.lines: dict[Path_, int] = {}
        self._visit(node, (), set())
        return node

    def _visit(self, node: yaml.Node | None, path: Path_, seen: set[int]) -> None:
        if node is None or id(node) in seen:  # an alias, perhaps of the very thing that it stands in
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self.lines[*path, i] = item.start_mark.line + 1
                self._visit(item, (*path, i), seen)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, key.value if isinstance(key, yaml.ScalarNode) else None)
                if here in self.lines:
                    problem = f"'{here[-1]}' is given twice, first in line {self.lines[here]}; keep one"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                self.lines[here] = key.start_mark.line + 1
                self._visit(value, here, seen)


def _written_out(node: yaml.Node | None, known: dict[int, int | None]) -> int:
    """How many values a node stands for."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = None  # until it is known
        parts = [p for pair in node.value for p in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    count = known[id(node)]
    if count is None or count > MOST:
        problem = "an alias stands in what it is of" if count is None else f"its aliases stand for {count:.0e} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return count


def _number(loader: Loader, node: yaml.ScalarNode) -> Any:
    """As the safe loader's; one of a thousand digits is no option, and takes the square of its length to read."""
    if len(node.value) > _DIGITS:
        raise yaml.MarkedYAMLError(problem=f"a number of {len(node.value)} characters", problem_mark=node.start_mark)
    integer = node.tag.endswith("int")
    return loader.construct_yaml_int(node) if integer else loader.construct_yaml_float(node)


Loader.add_constructor("tag:yaml.org,2002:int", _number)
Loader.add_constructor("tag:yaml.org,2002:float", _number)


class Dumper(yaml.SafeDumper):
    """YAML's safe dumper, without anchors, and with tuples and paths as lists and text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
Dumper.add_multi_representer(Path, lambda dumper, path: dumper.represent_str(str(path)))
