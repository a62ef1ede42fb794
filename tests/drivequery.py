"""The languages of the Drive's API, for tests: what a query `q` matches, and what `fields` leaves of an answer.

Only those forms of queries are understood that egofs sends, and all others are refused.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any


class NotUnderstood(Exception):
    """The query is none, or one that nobody here asks."""


def parse(text: str) -> tuple[Callable[[dict[str, Any]], bool], list[str]]:
    """What a query matches, and the folders that it names. Raises NotUnderstood."""
    tokens = re.findall(r"'(?:[^'\\]|\\.)*'|[()=]|[A-Za-z]+|\S", text)
    parents: list[str] = []

    def take(*wanted: str) -> str:
        if not tokens or (wanted and tokens[0] not in wanted):
            raise NotUnderstood
        return tokens.pop(0)

    def any_of() -> Callable[[dict[str, Any]], bool]:
        terms = [all_of()]
        while tokens and tokens[0] == "or":
            take("or")
            terms.append(all_of())
        return lambda facts: any(term(facts) for term in terms)

    def all_of() -> Callable[[dict[str, Any]], bool]:
        terms = [one()]
        while tokens and tokens[0] == "and":
            take("and")
            terms.append(one())
        return lambda facts: all(term(facts) for term in terms)

    def one() -> Callable[[dict[str, Any]], bool]:
        token = take()
        if token == "(":
            inner = any_of()
            take(")")
            return inner
        if token.startswith("'"):
            take("in"), take("parents")
            parents.append(token.strip("'"))
            return lambda facts: token.strip("'") in facts["parents"]
        if token not in ("trashed", "title", "mimeType"):
            raise NotUnderstood
        take("=")
        value: Any = take()
        value = {"true": True, "false": False}[value] if token == "trashed" else re.sub(r"\\(.)", r"\1", value[1:-1])
        return lambda facts: facts[token] == value

    matches = any_of()
    if tokens or not parents:  # all of a Drive is never asked for here
        raise NotUnderstood
    return matches, parents


def pick(told: dict[str, Any], fields: str) -> dict[str, Any]:
    """What of a resource was asked for with `fields`."""
    tokens = re.findall(r"\w+|[(),]", fields)
    return _picked(told, iter([*tokens, ")"])) if tokens else told


def _picked(told: Any, tokens: Iterator[str]) -> Any:
    wanted: dict[str, Any] = {}
    name = ""
    rest = list[str]()
    for token in tokens:
        if token == "(":
            depth, rest = 1, []
            for each in tokens:
                depth += {"(": 1, ")": -1}.get(each, 0)
                if depth == 0:
                    break
                rest.append(each)
            wanted[name] = [*rest, ")"]
        elif token == ")":
            break
        elif token != ",":
            name = token
            wanted[name] = None
    if isinstance(told, list):
        return [_only(each, wanted) for each in told]
    return _only(told, wanted)


def _only(told: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _picked(told[name], iter(inner)) if inner else told[name]
        for name, inner in wanted.items()
        if name in told
    }
