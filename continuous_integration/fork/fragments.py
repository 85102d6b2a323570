"""A YAML file of the base + a fragment with keys of ours -> the YAML file of the fork.

As with modules, the text of the base stays and lines of the fragment are put in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from continuous_integration.fork import ForkError
from continuous_integration.fork.project import DIVERGENCE, Entry

# An edit: index of the line to put lines in front of, the lines
_Edit = tuple[int, list[str]]


def merge_fragment(
    path: str, base: str, ours: str, declared: Mapping[str, Entry]
) -> str:
    """Add the keys of a fragment to a YAML file of the base.

    A key goes to the end of its mapping, or behind the sibling that its entry names
    with ``after``, together with the comments right above it.

    Parameters
    ----------
    path
        Of the file, for messages
    base, ours
        Their texts
    declared
        The keys, with dots between their parts, that the fork adds to this file

    Returns
    -------
    str
        Text of the file of the fork

    Raises
    ------
    ForkError
        If the base has one of the keys, or the two do not fit together as declared
    """
    # A run-time dependency of the base; imported here since an editable install comes
    # by this module in environments where something may be missing
    import yaml

    try:
        trees = [yaml.compose(t, Loader=yaml.SafeLoader) for t in (base, ours)]
        expected = _deep_merged(yaml.safe_load(base), yaml.safe_load(ours))
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        reason = getattr(error, "problem", None) or error
        raise ForkError(f"{path}, line {line}: does not parse: {reason}") from None
    if not all(isinstance(tree, yaml.MappingNode) for tree in trees):
        raise ForkError(f"{path}: must be a mapping, in the base and here")
    merge = _Merge(path, base, ours, declared)
    edits = list(merge.mapping(trees[0], trees[1], ""))
    for name, entry in declared.items():
        if entry["how"] != "adds":
            raise ForkError(f"{DIVERGENCE}: {path}: {name}: keys can only be added")
        if name not in merge.done:
            raise ForkError(f"{path}: has no {name}, which {DIVERGENCE} says it adds")
    lines = list(merge.base)
    for line, new in sorted(edits, key=lambda edit: edit[0], reverse=True):
        lines[line:line] = new
    merged = "\n".join(lines)
    if yaml.safe_load(merged) != expected:  # The check on all the splicing above
        raise ForkError(
            f"{path}: does not merge cleanly; write the fragment as the base is"
        )
    return merged


class _Merge:
    """One run of :func:`merge_fragment`; the nodes are PyYAML's."""

    def __init__(self, path: str, base: str, ours: str, declared: Mapping[str, Entry]):
        self.path = path
        self.base = base.split("\n")
        self.ours = ours.split("\n")
        self.declared = declared
        self.done: set[str] = set()

    def mapping(self, base: Any, ours: Any, prefix: str) -> Iterator[_Edit]:
        """Yield what to insert for a mapping that both have, and those inside."""
        there = {key.value: (key, value) for key, value in base.value}
        for key, value in ours.value:
            name = prefix + key.value
            if key.value in there:
                old = there[key.value][1]
                if not old.id == value.id == "mapping":
                    raise ForkError(
                        f"{self.path}, line {key.start_mark.line + 1}: the base "
                        f"already has {name}; it cannot be added"
                    )
                yield from self.mapping(old, value, f"{name}.")
                continue
            entry = self.declared.get(name)
            if entry is None:
                raise ForkError(f"{self.path}: {name} is not declared in {DIVERGENCE}")
            self.done.add(name)
            after = entry.get("after", base.value[-1][0].value)
            if after not in there or base.flow_style:
                raise ForkError(
                    f"{self.path}: the base has no {after} to put {name} behind"
                )
            yield self.item(key, value, *there[after])

    def item(self, key: Any, value: Any, sibling: Any, content: Any) -> _Edit:
        """Return the insertion of a key and its value behind a sibling in the base."""
        first = key.start_mark.line
        indent = " " * key.start_mark.column
        while first and self.ours[first - 1].startswith(f"{indent}#"):
            first -= 1
        text = self.ours[first : _end(value, self.ours)]
        margin = " " * sibling.start_mark.column
        text = [margin + line[len(indent) :] if line.strip() else "" for line in text]
        start = sibling.start_mark.line
        if start and not self.base[start - 1].strip():  # The base sets its keys apart
            text = ["", *text]
        return _end(content, self.base), text


def _end(node: Any, lines: list[str]) -> int:
    """Return the index of the line behind a node.

    What PyYAML takes for the end of a block lies behind the comments that follow.
    """
    end: int = node.end_mark.line
    if node.end_mark.column and lines[end][: node.end_mark.column].strip():
        end += 1
    while not lines[end - 1].strip() or (
        node.id != "scalar" and lines[end - 1].lstrip().startswith("#")
    ):
        end -= 1
    return end


def _deep_merged(base: Any, ours: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(ours, dict)):
        return ours
    merged = dict(base)
    for key, value in ours.items():
        merged[key] = _deep_merged(base[key], value) if key in base else value
    return merged
