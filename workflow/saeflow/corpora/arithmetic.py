"""Arithmetic from text: numbers, names and a few functions; nothing of it is run as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FUNCTIONS: dict[str, Callable[[float], float]] = {
    name: getattr(math, name) for name in ("sqrt", "sin", "cos", "asin", "atan", "log")
}


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """Return the value of an expression in `+ - * / **`, `pi`, FUNCTIONS and names of `values`.

    Raises ValueError naming what else stands in it.
    """
    known = {"pi": math.pi, **values}

    def of(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name) if name in known:
                return known[name]
            case ast.BinOp() if type(node.op) in _OPERATORS:
                return _OPERATORS[type(node.op)](of(node.left), of(node.right))
            case ast.UnaryOp(op=ast.USub()):
                return -of(node.operand)
            case ast.Call(func=ast.Name(id=name), args=[argument]) if name in FUNCTIONS:
                return FUNCTIONS[name](of(argument))
        raise ValueError(f"formula {formula!r}: {ast.unparse(node)!r} is no known arithmetic")

    try:
        return of(ast.parse(formula, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"formula {formula!r} is no expression") from error
