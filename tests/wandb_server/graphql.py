"""As much of GraphQL as the W&B client speaks: one operation with fragments, variables, aliases, @include and @skip.

A schema is plain data: dictionaries whose values are data, dictionaries, lists or functions of the field's arguments.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

TOKENS = re.compile(r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\])*"|\.\.\.|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_]\w*|[{}()\[\]:$!=@|&]')
KEYWORDS = {"true": True, "false": False, "null": None}


class Unsupported(Exception):
    """The operation asks for something at its root that the schema lacks."""


@dataclass(frozen=True)
class Variable:
    name: str


@dataclass
class Field:
    """A field of a selection; `conditions` are (directive, value) pairs."""

    alias: str
    name: str
    arguments: dict[str, Any]
    selection: "list[Field | Spread]"
    conditions: list[tuple[str, Any]]


@dataclass
class Spread:
    """A fragment's name, or the selection of an inline one."""

    name: str
    selection: "list[Field | Spread]"


@dataclass
class Operation:
    kind: str = "query"
    name: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)
    selection: list[Field | Spread] = field(default_factory=list)
    fragments: dict[str, list[Field | Spread]] = field(default_factory=dict)


class _Parser:
    def __init__(self, text: str):
        self.tokens = [*TOKENS.findall(re.sub(r"#[^\n]*", "", text)), ""]
        self.position = 0

    @property
    def ahead(self) -> str:
        return self.tokens[self.position]

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def skip(self, *expected: str) -> None:
        for token in expected:
            if self.take() != token:
                raise ValueError(f"expected {token} before {' '.join(self.tokens[self.position : self.position + 5])}")

    def until(self, end: str) -> Iterator[None]:
        while self.ahead != end:
            yield
        self.take()

    def document(self) -> Operation:
        operation = Operation()
        while self.ahead:
            if self.ahead == "{":
                operation.selection = self.selection()
                continue
            kind = self.take()
            name = self.take() if self.ahead not in ("{", "(") else ""
            if kind == "fragment":
                self.skip("on")
                self.take()
                operation.fragments[name] = self.selection()
                continue
            operation.kind, operation.name = kind, name
            if self.ahead == "(":
                self.take()
                for _ in self.until(")"):
                    self.declaration(operation.defaults)
            operation.selection = self.selection()
        return operation

    def declaration(self, defaults: dict[str, Any]) -> None:
        """`$name: [Type!]! = default`"""
        self.skip("$")
        name = self.take()
        self.skip(":")
        while self.ahead in ("[", "]", "!") or re.match(r"[A-Za-z_]", self.ahead):
            self.take()
        if self.ahead == "=":
            self.take()
            defaults[name] = self.value()

    def selection(self) -> list[Field | Spread]:
        chosen: list[Field | Spread] = []
        self.skip("{")
        for _ in self.until("}"):
            if self.ahead != "...":
                chosen.append(self.field())
                continue
            self.take()
            name = self.take()
            if name == "on":
                self.take()
                chosen.append(Spread("", self.selection()))
            else:
                chosen.append(Spread(name, []))
        return chosen

    def field(self) -> Field:
        alias = name = self.take()
        if self.ahead == ":":
            self.take()
            name = self.take()
        arguments = self.arguments()
        conditions = []
        while self.ahead == "@":
            self.take()
            directive = self.take()
            conditions.append((directive, self.arguments()["if"]))
        return Field(alias, name, arguments, self.selection() if self.ahead == "{" else [], conditions)

    def arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.ahead == "(":
            self.take()
            for _ in self.until(")"):
                key = self.take()
                self.skip(":")
                found[key] = self.value()
        return found

    def value(self) -> Any:
        token = self.take()
        if token == "$":
            return Variable(self.take())
        if token == "[":
            return [self.value() for _ in self.until("]")]
        if token == "{":
            found = {}
            for _ in self.until("}"):
                key = self.take()
                self.skip(":")
                found[key] = self.value()
            return found
        if token in KEYWORDS:
            return KEYWORDS[token]
        return json.loads(token) if re.match(r'["\d-]', token) else token


def parse(text: str) -> Operation:
    """The one operation of a document; ValueError where it cannot be read."""
    return _Parser(text).document()


def _bound(value: Any, variables: dict[str, Any]) -> Any:
    if isinstance(value, Variable):
        return variables.get(value.name)
    if isinstance(value, list):
        return [_bound(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: _bound(item, variables) for key, item in value.items()}
    return value


def execute(operation: Operation, root: dict[str, Any], variables: dict[str, Any], unknown: Callable[[str], None]) -> dict[str, Any]:
    """The answer to an operation. `unknown` is told each field that the schema lacks, which is null in the answer.

    Unsupported for one at the root: wandb-core ends with a crash where a mutation answers null.
    """
    variables = operation.defaults | variables
    for chosen in operation.selection:
        if isinstance(chosen, Field) and chosen.name not in root:
            raise Unsupported(chosen.name)

    def project(value: Any, selection: list[Field | Spread]) -> Any:
        if value is None or not selection:
            return value
        if isinstance(value, list):
            return [project(item, selection) for item in value]
        answer: dict[str, Any] = {}
        for chosen in selection:
            if isinstance(chosen, Spread):
                answer |= project(value, operation.fragments[chosen.name] if chosen.name else chosen.selection)
            elif all(bool(_bound(condition, variables)) == (directive == "include") for directive, condition in chosen.conditions):
                if chosen.name not in value:
                    unknown(chosen.name)
                inner = value.get(chosen.name)
                if callable(inner):
                    given = {key: _bound(argument, variables) for key, argument in chosen.arguments.items()}
                    inner = inner(**{key: argument for key, argument in given.items() if argument is not None})
                answer[chosen.alias] = project(inner, chosen.selection)
        return answer

    return project(root, operation.selection)
