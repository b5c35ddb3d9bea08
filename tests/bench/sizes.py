#!/usr/bin/env python3
"""Prints how long functions and modules are, and how much test there is for each line of source.

Lines are those with code on them, docstrings and blank lines left out. Symptoms to look at, no
gate; what the models of the style measure stands beside.
"""

import ast
import pathlib
import re
import statistics
import tokenize

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMENT = tokenize.COMMENT
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTION)


def main():
    """Print the table and the longest of each kind."""
    modules = sorted((ROOT / "flower_agent").rglob("*.py"))
    tests = sorted((ROOT / "tests").rglob("*.py"))
    sizes = {path: sum(1 for _ in path.open(encoding="utf-8")) for path in modules}
    functions = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length
        for path in modules
        for node, length in measured(path)
    }
    lengths = sorted(functions.values())
    lines = [size for path, size in sizes.items() if path.name != "__init__.py"]
    comments = sum(counted(path) for path in modules)
    typed = [node.returns is not None for path in modules for node, _ in measured(path)]
    written = sum(sum(1 for _ in path.open(encoding="utf-8")) for path in tests)
    rows = (
        ("function, median", statistics.median(lengths), "at most 9"),
        ("function, nine tenths", lengths[len(lengths) * 9 // 10], "at most 25"),
        ("function, longest", lengths[-1], "at most 50"),
        ("modules", len(lines), "about 80"),
        ("lines in all", sum(lines), "18,000 before kits, pages and accounts"),
        ("module, median", statistics.median(lines), "about 170"),
        ("lines for each comment", f"{sum(lines) / comments:.0f}", "at most 60"),
        ("functions with a return type", f"{sum(typed) / len(typed):.0%}", "100%"),
        ("test lines per source line", f"{written / sum(sizes.values()):.2f}", "at least 1.3"),
    )
    for name, value, model in rows:
        print(f"{name:32}{value!s:>8}   {model}")
    print("\nlongest functions")
    for name in sorted(functions, key=functions.get, reverse=True)[:5]:
        print(f"{functions[name]:6}  {name}")
    print("\nmodules above 400 lines")
    for path, size in sorted(sizes.items(), key=lambda pair: -pair[1]):
        if size > 400:
            print(f"{size:6}  {path.relative_to(ROOT)}")


def counted(path):
    """Return how many comments a module has; those for tools are left out."""
    with path.open("rb") as file:
        found = [
            token.string for token in tokenize.tokenize(file.readline) if token.type == COMMENT
        ]
    return sum(not re.match(r"#!|# (?:noqa|type:|fmt:|ruff:)", text) for text in found)


def measured(path):
    """Yield each function of a module with its lines of code."""
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            words |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    for node in ast.walk(tree):
        if isinstance(node, FUNCTION):
            own = set(range(node.lineno, node.end_lineno + 1)) - words
            yield node, sum(bool(lines[number - 1].strip()) for number in own)


if __name__ == "__main__":
    main()
