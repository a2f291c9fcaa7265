"""The language of dynamic groups: which devices, by what they are. `docs/groups.md` is its manual.

    either     = both { "or" both }
    both       = one { "and" one }
    one        = "not" one | "(" either ")" | "has" fact | comparison
    comparison = fact ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "like" ) value | fact [ "not" ] "in" "(" value { "," value } ")"
    fact       = "device_id" | "hardware_model" | "timezone" | "agent_version" | "attributes" "." name
               | [ "component" "." ] name [ "." "build" ]
    value      = "text" | whole number

A query is read by the grammar above and nothing else: it is never Python, nor SQL. A comparison with what a device does
not have is false, `!=` and `not in` too; `not` turns the whole round.
"""  # noqa: E501 - a rule of the grammar is a line

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cloud.store.errors import InvalidError
from protocol.errors import IdentityError
from protocol.identity import MAX_INTEGER, Installed, check_id, version_key

MAX_QUERY: Final = 1000
"""Characters of a query."""
MAX_DEPTH: Final = 20
MAX_COMPARISONS: Final = 50
TEXTS: Final = ("device_id", "hardware_model", "timezone")
VERSION: Final = "agent_version"
ATTRIBUTES: Final = "attributes."
COMPONENT: Final = "component."
BUILD: Final = ".build"
_OPERATORS: Final = frozenset({"==", "!=", "<", "<=", ">", ">=", "like"})
_WORDS: Final = frozenset({"and", "or", "not", "has", "in", "like"})
_EXAMPLE: Final = """attributes.site == "berlin" and app >= "1.2.0\""""
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<number>-?\d+(?![\w.]))|(?P<op>==|!=|<=|>=|<|>|[(),])"""
    r"""|(?P<name>[A-Za-z_](?:[\w-]|\.(?!\s|$))*)|(?P<end>$)|(?P<odd>.))""",
    re.DOTALL,
)
Value = str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A device as queries see it."""

    device_id: str
    hardware_model: str
    agent_version: str = "0.0.0"
    timezone: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    components: Mapping[str, Installed] = field(default_factory=dict)

    def fact(self, name: str) -> Value | None:
        """Return a fact of the device, None where it has none."""
        if name in TEXTS or name == VERSION:
            said: str = getattr(self, name)
            return said or None
        if name.startswith(ATTRIBUTES):
            return self.attributes.get(name.removeprefix(ATTRIBUTES))
        installed = self.components.get(name.removeprefix(COMPONENT).removesuffix(BUILD))
        if installed is None:
            return None
        return installed.build if name.endswith(BUILD) else installed.version


@dataclass(frozen=True, slots=True)
class Comparison:
    """One fact against values; `op` is `has`, `in`, `not in`, `like`, or an operator."""

    fact: str
    op: str
    values: tuple[Value, ...]
    text: str

    def holds(self, device: Candidate) -> bool:
        """Tell whether it is true of a device."""
        found = device.fact(self.fact)
        if found is None or self.op == "has":
            return found is not None
        if self.op in ("in", "not in"):
            return any(self._compare(found, "==", value) for value in self.values) is (self.op == "in")
        return self._compare(found, self.op, self.values[0])

    def _compare(self, found: Value, op: str, value: Value) -> bool:
        if op == "like":
            return fnmatch.fnmatchcase(str(found), str(value).replace("[", "[[]"))
        if isinstance(value, int):
            number = _whole(found)
            return number is not None and _ordered(op, (number > value) - (number < value))
        if self.fact.startswith(ATTRIBUTES) or self.fact in TEXTS:
            return _ordered(op, 0 if found == value else 1)
        return _ordered(op, _version_order(str(found), value))


@dataclass(frozen=True, slots=True)
class Combination:
    """`and` and `or` of several, `not` of one."""

    word: str
    parts: tuple[Expression, ...]

    def holds(self, device: Candidate) -> bool:
        """Tell whether it is true of a device."""
        if self.word == "not":
            return not self.parts[0].holds(device)
        return (all if self.word == "and" else any)(part.holds(device) for part in self.parts)


Expression = Comparison | Combination


@dataclass(frozen=True, slots=True)
class Saw:
    """One comparison of a query with one device: its text, what the device has, and whether it holds."""

    comparison: str
    saw: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was read; `text` is as it was written."""

    text: str
    expression: Expression
    comparisons: tuple[Comparison, ...]

    @classmethod
    def parse(cls, text: str) -> Query:
        """Read a query; raises InvalidError with the place that is wrong."""
        return _parsed(text)

    def matches(self, device: Candidate) -> bool:
        """Tell whether it is true of a device."""
        return self.expression.holds(device)

    def explain(self, device: Candidate) -> tuple[Saw, ...]:
        """Return what each of its comparisons saw of a device."""
        return tuple(Saw(it.text, _shown(device.fact(it.fact)), it.holds(device)) for it in self.comparisons)

    @property
    def components(self) -> frozenset[str]:
        """The components that it looks at."""
        facts = (it.fact for it in self.comparisons if it.fact.startswith(COMPONENT))
        return frozenset(fact.removeprefix(COMPONENT).removesuffix(BUILD) for fact in facts)

    @property
    def follows_versions(self) -> bool:
        """Whether an update can make a device join or leave."""
        return any(it.fact == VERSION or it.fact.startswith(COMPONENT) for it in self.comparisons)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Query:
    return _Parser(text).read()


@lru_cache(maxsize=4096)
def _version_order(left: str, right: str) -> int:
    """Compare two versions; a fleet runs few."""
    return version_key(left).compare(right)


def _ordered(op: str, order: int) -> bool:
    return {"==": order == 0, "!=": order != 0, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[op]


def _whole(found: Value) -> int | None:
    text = str(found)
    return int(text) if re.fullmatch(r"-?[0-9]{1,16}", text) else None


def _shown(found: Value | None) -> str:
    return "nothing" if found is None else str(found) if isinstance(found, int) else f'"{found}"'


class _Parser:
    """Reads one query, a token ahead; `start` and `end` are where that token stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.comparisons: list[Comparison] = []
        self.kind = self.token = ""
        self.start = self.end = self.last = 0

    def read(self) -> Query:
        if len(self.text) > MAX_QUERY:
            raise InvalidError(f"a query has at most {MAX_QUERY} characters, not {len(self.text)}; nothing was changed")
        self._advance()
        expression = self._either(0)
        if self.kind != "end":
            raise self._wrong("'and' or 'or' is expected, or the end")
        return Query(self.text, expression, tuple(self.comparisons))

    def _advance(self) -> str:
        """Go on to the next token and return the one that was."""
        was, self.last = self.token, self.end
        match = _TOKEN.match(self.text, self.end)
        assert match is not None and match.lastgroup is not None  # noqa: S101, PT018 - the last alternatives take all
        self.kind, self.token = match.lastgroup, match[match.lastgroup]
        self.start, self.end = match.start(match.lastgroup), match.end()
        if self.kind == "name" and self.token in _WORDS:
            self.kind = "word"
        return was

    def _takes(self, token: str) -> bool:
        if self.kind not in ("word", "op") or self.token != token:
            return False
        self._advance()
        return True

    def _either(self, depth: int) -> Expression:
        return self._several("or", depth)

    def _several(self, word: str, depth: int) -> Expression:
        parts: list[Expression] = []
        while not parts or self._takes(word):
            parts.append(self._several("and", depth) if word == "or" else self._one(depth))
        return parts[0] if len(parts) == 1 else Combination(word, tuple(parts))

    def _one(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise self._wrong(f"more than {MAX_DEPTH} brackets and 'not' in each other")
        if self._takes("not"):
            return Combination("not", (self._one(depth + 1),))
        if self._takes("("):
            inner = self._either(depth + 1)
            if not self._takes(")"):
                raise self._wrong("')' is expected")
            return inner
        return self._comparison()

    def _comparison(self) -> Comparison:
        start = self.start
        if self._takes("has"):
            return self._made(start, self._fact(), "has", ())
        fact = self._fact()
        negated = self._takes("not")
        if self._takes("in"):
            if not self._takes("("):
                raise self._wrong('\'(\' is expected, as in: site in ("berlin", "bonn")')
            values = [self._value(fact, "==")]
            while self._takes(","):
                values.append(self._value(fact, "=="))
            if not self._takes(")"):
                raise self._wrong("',' or ')' is expected")
            return self._made(start, fact, "not in" if negated else "in", tuple(values))
        if negated or self.kind not in ("op", "word") or self.token not in _OPERATORS:
            raise self._wrong("'in' is expected" if negated else "==, !=, <, <=, >, >=, like or in is expected")
        op = self._advance()
        return self._made(start, fact, op, (self._value(fact, op),))

    def _fact(self) -> str:
        if self.kind != "name":
            raise self._wrong("a fact is expected, such as hardware_model, attributes.site or app")
        name = self.token
        if not (name in TEXTS or name == VERSION or (name.startswith(ATTRIBUTES) and name != ATTRIBUTES)):
            component = name.removeprefix(COMPONENT)
            try:
                check_id(component.removesuffix(BUILD))
            except IdentityError:
                known = f"{', '.join(TEXTS)}, {VERSION}, {ATTRIBUTES}NAME, or a component such as app, or app{BUILD}"
                raise self._wrong(f"{name!r} is no fact of a device; there are {known}") from None
            name = COMPONENT + component
        self._advance()
        return name

    def _value(self, fact: str, op: str) -> Value:
        if self.kind not in ("text", "number"):
            raise self._wrong('a text in quotes is expected, or a whole number, as in app >= "1.2.0"')
        is_build, is_attribute = fact.startswith(COMPONENT) and fact.endswith(BUILD), fact.startswith(ATTRIBUTES)
        value: Value = self.token[1:-1] if self.kind == "text" else int(self.token[:20])
        if is_build != isinstance(value, int) and not (is_attribute and isinstance(value, int)):
            raise self._wrong("a whole number is expected" if is_build else "a text in quotes is expected")
        if isinstance(value, int):
            if abs(value) > MAX_INTEGER or op == "like":
                raise self._wrong("a smaller number is expected" if op != "like" else "a text in quotes is expected")
        elif is_attribute or fact in TEXTS:
            if op not in ("==", "!=", "like"):
                raise self._wrong("texts have no order: ==, !=, like and in go with them; numbers stand without quotes")
        elif op != "like":
            try:
                version_key(value)
            except IdentityError as error:
                raise self._wrong(str(error)) from None
        self._advance()
        return value

    def _made(self, start: int, fact: str, op: str, values: tuple[Value, ...]) -> Comparison:
        if len(self.comparisons) >= MAX_COMPARISONS:
            raise self._wrong(f"more than {MAX_COMPARISONS} comparisons")
        made = Comparison(fact, op, values, self.text[start : self.last].strip())
        self.comparisons.append(made)
        return made

    def _wrong(self, why: str) -> InvalidError:
        there = "at the end" if self.kind == "end" else f"at character {self.start + 1}, {self.token[:30]!r}"
        return InvalidError(f"the query cannot be read {there}: {why}; nothing was changed. One looks like {_EXAMPLE}")
