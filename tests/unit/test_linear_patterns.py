"""No pattern of the package holds the interpreter: a mebibyte of its worst case is a moment.

Python's ``re`` keeps the interpreter while it matches, so one pattern that is quadratic in what a
stranger wrote stops the whole agent. This finds every pattern, makes hostile texts out of what it
repeats, and feeds them as the code does, in a process that is killed when it takes long.
"""

import ast
import dataclasses
import enum
import importlib
import itertools
import json
import pathlib
import pkgutil
import re
import selectors
import subprocess
import sys
import time

import flower_agent

_parser, _compiler = re._parser, re._compiler
SOURCE = pathlib.Path(flower_agent.__file__).parent
SIZE = 1 << 20
SHORT = 1 << 12
LIMIT_S = 1.0
KILLED_AFTER_S = 30
METHODS = ("match", "fullmatch", "search", "finditer", "findall", "sub", "split")
KNOWN = ("[ROUND 7/8]\nfit progress: (1, 1, {", "Path argument ", "a-", "SuperNode ID: ")
"""What froze an agent before."""

LETTERS = "a0A-_.: \t\n/@\"'=;,()[]{}<>#$!~\\\x1b\u2028"


@dataclasses.dataclass(frozen=True)
class Used:
    """A pattern, where it stands and how it is used."""

    where: str
    pattern: re.Pattern
    methods: tuple[str, ...]


def modules():
    found = pkgutil.walk_packages(flower_agent.__path__, "flower_agent.")
    return sorted({"flower_agent", *(each.name for each in found)} - {"flower_agent.__main__"})


def trees():
    for name in modules():
        path = pathlib.Path(importlib.import_module(name).__file__)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def compiled(value, depth=0):
    """Yield the patterns in a value, however deep."""
    if isinstance(value, re.Pattern):
        yield value
    elif depth > 6:
        return
    elif isinstance(value, type) and value.__module__.startswith("flower_agent"):
        inside = list(value) if issubclass(value, enum.Enum) else vars(value).values()
        yield from (each for part in inside for each in compiled(part, depth + 1))
    elif isinstance(value, enum.Enum):
        yield from compiled(value.value, depth + 1)
    elif isinstance(value, dict):
        yield from (p for part in (*value, *value.values()) for p in compiled(part, depth + 1))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (each for part in value for each in compiled(part, depth + 1))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = (getattr(value, field.name) for field in dataclasses.fields(value))
        yield from (each for part in parts for each in compiled(part, depth + 1))


def calls():
    """Return the methods that are called on each name, in any module."""
    found = {}
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = getattr(node.func.value, "id", getattr(node.func.value, "attr", None))
                if owner and node.func.attr in METHODS:
                    found.setdefault(owner, set()).add(node.func.attr)
    return found


def held():
    """Yield the patterns that modules hold."""
    called = calls()
    for name in modules():
        for attribute, value in vars(importlib.import_module(name)).items():
            if getattr(value, "__module__", name) != name and isinstance(value, type):
                continue
            for pattern in compiled(value):
                methods = called.get(attribute) if isinstance(value, re.Pattern) else None
                yield Used(f"{name}.{attribute}", pattern, tuple(sorted(methods or ("finditer",))))


def written():
    """Yield the patterns of ``re.search("…", …)`` and its like, and of ``re.compile``."""
    for name, tree in trees():
        inside = vars(importlib.import_module(name))
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            owner, _, method = called.rpartition(".")
            if owner != "re" or method == "escape":
                continue
            where = f"{name}:{node.lineno}"
            try:
                text = _value(node.args[0], inside)
            except NameError:  # a function's argument: what it compiles is held by its module
                assert method == "compile", f"{where}: write the pattern where it is used"
                continue
            others = (*node.args[1:], *(keyword.value for keyword in node.keywords))
            flags = [_value(other, inside) for other in others if "re." in ast.unparse(other)]
            if method != "compile" or _inside_a_function(tree, node):
                methods = (method,) if method in METHODS else ("finditer",)
                yield Used(where, re.compile(text, *flags), methods)


def _inside_a_function(tree, wanted):
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return any(wanted is node for function in functions for node in ast.walk(function))


def _value(node, inside):
    return eval(ast.unparse(node), dict(inside))  # noqa: S307 - our own source


def every():
    """Return each pattern once, with each way in which it is used."""
    found = {}
    for used in (*held(), *written()):
        before = found.setdefault(used.pattern, used)
        methods = tuple(sorted({*before.methods, *used.methods}))
        found[used.pattern] = dataclasses.replace(before, methods=methods)
    return sorted(found.values(), key=lambda used: (used.where, used.pattern.pattern))


def sample(parsed):
    """Return a short text that a parsed pattern takes, as near as is easy."""
    return "".join(_sample(op, value) for op, value in parsed)


def _sample(op, value):
    match str(op):
        case "LITERAL":
            return chr(value)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            low, high, body = value
            return sample(body) * min(max(low, int(high > 0)), SHORT)
        case "SUBPATTERN" | "ATOMIC_GROUP" | "BRANCH":
            return sample(_inner(op, value)[0])
        case "NOT_LITERAL" | "ANY" | "IN":
            return next(iter(letters([(op, value)])), "")
    return ""


def _inner(op, value):
    """Return the parsed patterns inside a part."""
    match str(op):
        case "SUBPATTERN":
            return [value[-1]]
        case "ATOMIC_GROUP":
            return [value]
    return value[1] if str(op) == "BRANCH" else [value[1]]


def letters(body):
    """Return the letters that a parsed pattern of one letter takes; none for one of more."""
    if len(body) != 1 or str(body[0][0]) not in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
        return []
    state = _parser.State()
    state.str = ""
    one = _compiler.compile(_parser.SubPattern(state, list(body)))
    return [letter for letter in LETTERS if one.fullmatch(letter)]


def seeds(parsed, prefix=""):
    """Yield what comes before each part of a pattern, and what a repeat takes again and again."""
    for op, value in parsed:
        match str(op):
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                body = list(value[2])
                found = letters(body)
                pairs = (a + b for a, b in itertools.permutations(found[:4], 2))
                for unit in {sample(body), *found[:6], *pairs}:
                    yield prefix, unit
                yield from seeds(body, prefix)
            case "SUBPATTERN" | "ATOMIC_GROUP" | "BRANCH" | "ASSERT" | "ASSERT_NOT":
                for part in _inner(op, value):
                    yield from seeds(part, prefix)
        prefix += _sample(op, value)
        yield prefix, ""


def attacks(pattern, size):
    """Yield hostile texts of `size` for a pattern."""
    shapes = set()
    for prefix, unit in seeds(_parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)):
        one, half = unit or prefix, size // 2
        shapes |= {("", one, ""), ("", prefix + one, ""), (prefix, one, ""), (one, "", prefix)}
        shapes.add((prefix * (half // max(len(prefix), 1)), one, ""))
    shapes |= {("", known, "") for known in KNOWN}
    for head, unit, tail in sorted(shapes):
        for end in ("", "\n\0"):
            body = (unit or "x") * (size // max(len(unit), 1))
            yield (head + body)[: size - len(tail)] + tail + end


def seconds(used, text):
    """Return the processor's seconds for a text, as the pattern is used."""
    if isinstance(used.pattern.pattern, bytes):
        text = text.encode("latin-1", "replace")
    began = time.process_time()
    for method in used.methods:
        match method:
            case "finditer":
                for _ in used.pattern.finditer(text):
                    pass
            case "sub":
                used.pattern.sub(text[:0], text)
            case _:
                getattr(used.pattern, method)(text)
    return time.process_time() - began


def worst(used):
    """Return the seconds for a mebibyte of the worst case: the worst of many short ones, made long.

    The place of a text among the attacks says what it is, whatever its size.
    """
    texts = list(attacks(used.pattern, SHORT))
    short = [seconds(used, text) for text in texts]
    order = sorted(range(len(short)), key=short.__getitem__, reverse=True)
    again = min(seconds(used, texts[order[0]]) for _ in range(3)) * SIZE / SHORT
    if again > 2 * LIMIT_S:  # too slow even if it were linear
        return again
    chosen = set(order[:2])
    long = enumerate(attacks(used.pattern, SIZE))
    return max(seconds(used, text) for number, text in long if number in chosen)


def measure(found, first):
    """Print number and seconds of each pattern from `first` on."""
    for number in range(first, len(found)):
        _tell(number=number)
        _tell(number=number, seconds=worst(found[number]))


def _tell(**row):
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def measured(source, count):
    """Return each pattern's seconds; of one that takes too long, infinity."""
    times = dict.fromkeys(range(count), float("inf"))
    first = 0
    while first < count:
        command = [sys.executable, __file__, source, str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            running = first
            while line := _line(process):
                row = json.loads(line)
                running = row["number"]
                times[running] = row.get("seconds", float("inf"))
            process.kill()
        first = running + 1
    return times


def _line(process):
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(KILLED_AFTER_S) else b""


SLOW = (
    Used("the log's causes", re.compile(r"(Path argument .* does not point)"), ("search",)),
    Used("an exponential one", re.compile(r"(?:a+)+b"), ("match",)),
    Used("a name before a word", re.compile(r"\b[\w-]*(?:passwd|token)=\S+"), ("sub",)),
    Used("white space before an end", re.compile(r"\s+$"), ("search",)),
    Used("two greedy ones", re.compile(r"(.+)_(\d+)_\(service_\d+\)"), ("search",)),
)
QUICK = (
    Used("the same, bounded", re.compile(r"Path argument [^`]{0,99}` does not"), ("search",)),
    Used("anchored", re.compile(r"[^/]*+/\S+"), ("match",)),
)


def test_the_search_finds_what_is_slow_and_nothing_else():
    times = measured("examples", len(SLOW + QUICK))
    slow = {
        each.where
        for each, time_s in zip(SLOW + QUICK, times.values(), strict=True)
        if time_s > LIMIT_S
    }
    assert slow == {each.where for each in SLOW}


def test_every_pattern_is_linear():
    found = every()
    times = measured("package", len(found))
    slow = {
        f"{used.where} {used.pattern.pattern!r} {used.methods}": round(times[number], 1)
        for number, used in enumerate(found)
        if times[number] > LIMIT_S
    }
    assert not slow


def test_the_patterns_of_enums_tables_and_calls_are_found():
    places = [used.where for used in every()]
    for part in ("exit_codes._Kind", "exit_codes.SIGNS", "support._LOOKS", "cli:", "host.gpu:"):
        assert any(part in place for place in places), part
    assert len(places) > 100


if __name__ == "__main__":
    measure(every() if sys.argv[1] == "package" else SLOW + QUICK, int(sys.argv[2]))
