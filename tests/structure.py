"""Figures of the package's structure: files, lines, names. `python -m tests.structure [folder]` prints them."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "neurodeploy"
FORBIDDEN_WORDS = frozenset(
    [
        "told",
        "heard",
        "hearer",
        "hearers",
        "wish",
        "stake",
        "stand",
        "lack",
        "dread",
        "few",
        "beside",
        "strangers",
        "journey",
        "worth",
        "room",
        "given",
    ]
)
"""Words of a private language; no identifier may hold one as a whole word."""
QUESTION_WORDS = frozenset(["how", "what", "which", "who", "whose", "where", "when", "why", "whether"])

Parsed = dict[Path, ast.Module]


def parsed(folder: Path = PACKAGE) -> Parsed:
    """Syntax tree of every module below a folder."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


def words_of(identifier: str) -> set[str]:
    """Words of an identifier in snake_case or CamelCase, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+", identifier)}


def identifiers(tree: ast.Module) -> Counter[str]:
    """Every name, attribute, argument, keyword, function and class that a module writes."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                found[value] += 1
    return found


def forbidden_identifiers(modules: Parsed) -> dict[str, int]:
    """Identifiers with a forbidden word in them, and how often each is written."""
    total: Counter[str] = Counter()
    for tree in modules.values():
        total += identifiers(tree)
    return {name: n for name, n in total.items() if words_of(name) & FORBIDDEN_WORDS}


def private_definitions(modules: Parsed) -> list[str]:
    """Functions and classes at the top of a module whose name begins with an underscore."""
    return [
        f"{path.stem}.{node.name}"
        for path, tree in modules.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith("_") and not node.name.startswith("__")
    ]


def classes_defined_twice(modules: Parsed) -> dict[str, list[str]]:
    """Class names that more than one place of the package defines."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.stem)
    return {name: found for name, found in places.items() if len(found) > 1}


def constants_defined_twice(modules: Parsed) -> dict[str, set[str]]:
    """Upper-case module constants of one name, public or not, with different values."""
    values: defaultdict[str, set[str]] = defaultdict(set)
    for tree in modules.values():
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            for target in targets:
                if isinstance(target, ast.Name) and target.id.isupper() and getattr(node, "value", None) is not None:
                    values[target.id].add(ast.unparse(node.value))  # type: ignore[arg-type]
    return {name: found for name, found in values.items() if len(found) > 1}


def docstrings_that_ask(modules: Parsed) -> list[str]:
    """Modules whose docstring begins with a question word."""
    first = {path: re.match(r"\W*(\w*)", ast.get_docstring(tree) or "") for path, tree in modules.items()}
    return [path.relative_to(ROOT).as_posix() for path, word in first.items() if word and word[1].lower() in QUESTION_WORDS]


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method below a node, with its dotted name."""
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function:
            yield f"{prefix}{node.name}", node
        named = is_function or isinstance(node, ast.ClassDef)
        yield from functions(node, f"{prefix}{node.name}." if named else prefix)


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0] if ast.get_docstring(function) is not None else None
    quoted = 0 if first is None else (first.end_lineno or 0) - first.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - quoted


def lines_of(modules: Parsed) -> dict[str, int]:
    """Lines of each module."""
    return {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}


def entries() -> list[str]:
    """Modules and folders directly under the package."""
    return sorted(
        path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
    )


def main(folder: Path) -> None:
    """Print the figures of a folder."""
    modules = parsed(folder)
    lines = lines_of(modules)
    content = {name: n for name, n in lines.items() if not name.endswith("__init__.py")}
    comments = sum(
        bool(re.search(r"(^|\s)# (?!-)", line)) for path in modules for line in path.read_text(encoding="utf-8").splitlines()
    )
    print(f"files {len(lines)}, lines {sum(lines.values())}, entries at the top {len(entries())}")
    print(
        "over 500:",
        {name: n for name, n in lines.items() if n > 500},
        "under 40:",
        {name: n for name, n in content.items() if n < 40},
    )
    private = private_definitions(modules)
    print(f"private top-level definitions {len(private)}:", Counter(name.split(".")[0] for name in private))
    print("forbidden identifiers:", forbidden_identifiers(modules))
    print("classes twice:", classes_defined_twice(parsed()))
    print("constants twice:", {name: len(found) for name, found in constants_defined_twice(parsed()).items()})
    print("docstrings that ask:", docstrings_that_ask(modules))
    print(f"comment lines {100 * comments / max(sum(lines.values()), 1):.1f} %")


if __name__ == "__main__":
    main(PACKAGE / sys.argv[1] if len(sys.argv) > 1 else PACKAGE)
