"""What `verbose` prints, and when: as joblib does."""

from __future__ import annotations

import ast
import operator
import time
from math import floor, log10, sqrt
from typing import TYPE_CHECKING

from ._log import short_format_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._parallel import Parallel

LONGEST = 30  # characters of an expression
LARGEST = 10**6

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def message(parallel: Parallel) -> str | None:
    """What is to be said of the progress now, if anything is."""
    done, total = parallel.n_completed_tasks, parallel.n_dispatched_tasks
    width = floor(log10(parallel.n_tasks)) + 1 if parallel.n_tasks else 3
    elapsed = time.time() - parallel._start_time
    seconds = f"| elapsed: {short_format_time(elapsed)}"
    if parallel._is_completed():
        return f"Done {done:{width}d} out of {done:{width}d} {seconds} finished"
    if parallel._is_dispatching():
        if is_silent(parallel.n_dispatched_batches, parallel.verbose):
            return None
        if parallel.n_tasks is not None:
            return f"Done {done:{width}d} out of {parallel.n_tasks:{width}d} {seconds}"
        return f"Done {done:{width}d} tasks {' ' * (width + 2)}{seconds}"
    if done:
        ahead = total - done + 1 - parallel._pre_dispatch_amount
        if done + 1 == total or ahead % (total // parallel.verbose + 1):
            return None
    remaining = short_format_time(elapsed / max(done, 1) * (total - done))
    return f"Done {done:{width}d} out of {total:{width}d} {seconds} remaining: {remaining}"


def is_silent(index: int, verbose: int) -> bool:
    """Is nothing said of this batch? What is said gets rarer, with the square of the number."""
    if not verbose or verbose > 10 or index == 0:
        return verbose <= 10 and index != 0
    scale = 0.5 * (11 - verbose) ** 2
    return int(sqrt((index + 1) / scale)) == int(sqrt(index / scale))


# --- pre_dispatch


def evaluate(expression: str) -> float:
    """The value of an arithmetic expression, of numbers and operators alone.

    Raises:
        ValueError: it is none, or it is too long, or something in it is too large.
    """
    if len(expression) > LONGEST:
        raise ValueError(
            f"Expression {expression[:LONGEST]!r}... is too long. Max length is {LONGEST}, got {len(expression)}."
        )
    try:
        return value_of(ast.parse(expression, mode="eval").body)
    except (TypeError, SyntaxError, OverflowError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"{expression!r} is not a valid or supported arithmetic expression.") from error


def value_of(node: ast.AST) -> float:
    """The value of a part of it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        value: float = node.value
    elif isinstance(node, ast.BinOp):
        value = OPERATORS[type(node.op)](value_of(node.left), value_of(node.right))
    elif isinstance(node, ast.UnaryOp):
        value = OPERATORS[type(node.op)](value_of(node.operand))
    else:
        raise TypeError(node)
    if abs(value) > LARGEST:
        raise ValueError(f"Numeric literal {value} is too large, max is {LARGEST}.")
    return value
