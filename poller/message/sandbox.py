"""Jinja2's sandbox, with bounds: no template of anybody's takes a worker's time or memory, by accident or otherwise.

Rule 1. What a rendering costs is bounded: seconds of this thread's work (a machine that stands still meanwhile costs a
        row nothing), looked at in every round of a loop, call and filter; and the characters or items of every value
        that something makes.
Rule 2. A key of the context comes before a method of the same name: `order.items` is what the row says. A method that
        is not called is no value: it is unknown, as a variable can be.
"""

from __future__ import annotations

import functools
import inspect
import re
import time
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jinja2.compiler import Frame

REPEAT_MOST = 1_000_000
"""A number that is to make so many characters or items; larger ones are accidents or attacks."""
POWER_MOST = 10_000
"""For `**`: beyond it numbers take seconds."""
ROUNDS = 32
"""Of a loop between two looks at the clock."""
_WIDTH = re.compile(r"[%{][^a-zA-Z%]{0,20}\d{7}")
"""In a pattern of `%` or of `format`."""


class _Generator(CodeGenerator):
    """Where templates become code, the loops, the names and the joints are led through the environment."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 - Jinja2's
        node.iter = nodes.Call(nodes.EnvironmentAttribute("watched"), [node.iter], [], None, None)
        super().visit_For(node, frame)

    def visit_Call(self, node: nodes.Call, frame: Frame, **options: bool) -> None:  # type: ignore[override] # noqa: N802
        if isinstance(node.node, nodes.Getattr):
            node.node.is_called = True  # type: ignore[attr-defined]
        super().visit_Call(node, frame, **options)

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802
        self.write("environment.getattr(" if getattr(node, "is_called", False) else "environment.looked_up(")
        self.visit(node.node, frame)
        self.write(f", {node.attr!r})")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.bounded(")
        super().visit_Concat(node, frame)
        self.write(")")


class Sandbox(SandboxedEnvironment):
    """`max_size` bounds what one value may have, `max_seconds` what happens between `begin` and the end."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def __init__(self, *, max_size: int, max_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self.max_size = max_size
        self.max_seconds = max_seconds
        self._ends_at = float("inf")
        self.filters = {name: self._guarded(how) for name, how in self.filters.items()}

    def begin(self) -> None:
        """The time runs from now on."""
        self._ends_at = time.thread_time() + self.max_seconds

    def look_at_the_clock(self) -> None:
        """Raise SecurityError when the time is over."""
        if time.thread_time() > self._ends_at:
            raise SecurityError(f"it takes longer than {self.max_seconds:g} s")

    def watched(self, items: Iterable[Any]) -> Iterable[Any]:
        """The same, looking at the clock now and then."""
        if isinstance(items, list | tuple | dict) and len(items) < ROUNDS:
            self.look_at_the_clock()
            return items
        return self._watched(items)

    def _watched(self, items: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number % ROUNDS == 0:
                self.look_at_the_clock()
            yield item

    def bounded(self, value: Any) -> Any:
        """The same, if it is not too long."""
        if isinstance(value, str | list | tuple | dict) and len(value) > self.max_size:
            raise SecurityError(f"a value of {len(value):,} characters or items, more than {self.max_size:,}")
        return value

    def looked_up(self, whole: Any, name: str) -> Any:
        """`whole.name` (Rule 2)."""
        if isinstance(whole, dict):
            return whole[name] if name in whole else self.undefined(obj=whole, name=name)
        value = self.getattr(whole, name)
        return self.undefined(obj=whole, name=name) if inspect.isroutine(value) else value

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """The four operators that make much out of little."""
        if operator == "**" and not (_is_small(left) and _is_small(right)):
            raise SecurityError(f"numbers beyond {POWER_MOST} may not be raised to a power")
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if hasattr(many, "__len__") and isinstance(times, int) and len(many) * times > REPEAT_MOST:
                    raise SecurityError(f"a repetition longer than {REPEAT_MOST:,}")
        if operator == "%":
            _require_narrow(left, right if isinstance(right, tuple) else (right,))
        return self.bounded(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call it, if that is allowed."""
        self.look_at_the_clock()
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)  # the sandbox wraps str.format
        if isinstance(owner, str | bytes | list | tuple):
            self._require_modest(owner, obj.__name__, args)
        return self.bounded(super().call(context, obj, *args, **kwargs))

    def _guarded(self, how: Callable[..., Any]) -> Callable[..., Any]:
        first = 2 if hasattr(how, "jinja_pass_arg") else 1  # the value itself; before it may come Jinja2's context
        name = how.__name__.removeprefix("do_")

        @functools.wraps(how)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.look_at_the_clock()
            if len(args) >= first:
                self._require_modest(args[first - 1], name, (*args[first:], *kwargs.values()))
            return self.bounded(how(*args, **kwargs))

        return guarded

    def _require_modest(self, value: Any, name: str, args: tuple[Any, ...]) -> None:
        """Refuse what would be much before it is made."""
        if any(isinstance(number, int) and abs(number) > REPEAT_MOST for number in args):
            raise SecurityError(f"{name} with a number beyond {REPEAT_MOST:,}")
        if name == "replace" and len(args) > 1 and len(str(args[1])) * str(value).count(str(args[0])) > self.max_size:
            raise SecurityError(f"replace would make more than {self.max_size:,} characters")
        if name == "join" and args and hasattr(value, "__len__") and len(value) * len(str(args[0])) > self.max_size:
            raise SecurityError(f"join would make more than {self.max_size:,} characters")
        if name in {"format", "format_map"}:
            _require_narrow(value, args)


def _is_small(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= POWER_MOST


def _require_narrow(pattern: Any, values: tuple[Any, ...]) -> None:
    if not isinstance(pattern, str):
        return
    wide = "*" in pattern and any(isinstance(value, int) and abs(value) > REPEAT_MOST for value in values)
    if wide or _WIDTH.search(pattern):
        raise SecurityError(f"a field wider than {REPEAT_MOST:,}")
