"""Whether a class keeps the contract that it implements: what Python would find out too late."""

import dataclasses
import difflib
import functools
import inspect
import logging
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from fedcl.errors import ConfigError, FedclError, RunError

log = logging.getLogger("fedcl")

Check = Callable[..., str | None]
"""Returns what is wrong with what a hook returned, given that and the hook's arguments, or None."""

NEAR = 0.8
"""How much a name must resemble that of a hook to be taken for a slip."""


def broken(plugin: type, contract: type) -> str | None:
    """Return how a plug-in breaks its contract, or None.

    A method whose name nearly is that of a hook would never be called, a hook that is a property
    in the contract and a method in the plug-in, or takes other arguments, fails in the middle of a
    run.

    Args:
        plugin: a subclass.
        contract: what it implements.
    """
    name = plugin.__name__
    own = {key: value for key, value in vars(plugin).items() if not key.startswith("_")}
    settings = [kind for kind in inspect.get_annotations(plugin).values() if not _fixed(kind)]
    if settings and "__dataclass_params__" not in vars(plugin):
        return f"{name} has settings; write @dataclass above the class"
    if dataclasses.is_dataclass(plugin):
        missing = [
            field.name
            for field in dataclasses.fields(plugin)
            if field.default is field.default_factory is dataclasses.MISSING
        ]
        if missing:
            return f"{name}.{missing[0]} has no default; every setting needs one"
    hooks = [key for key in dir(contract) if not key.startswith("_")]
    for key, value in own.items():
        if not callable(value) and not isinstance(value, property):
            continue
        known = [base for base in plugin.__mro__[1:] if key in vars(base)]
        if not known:
            near = difflib.get_close_matches(key, hooks, n=1, cutoff=NEAR)
            if near:
                return (
                    f"{name}.{key} is no hook and would never be called; did you mean {near[0]}? "
                    "(if not, begin its name with _)"
                )
            continue
        problem = _apart(value, inspect.getattr_static(known[0], key))
        if problem is not None:
            return f"{name}.{key} {problem}"
    return None


def _fixed(kind: Any) -> bool:
    """Return whether an annotation is that of a value of the class, not of a setting."""
    return "ClassVar" in str(kind)


def _apart(ours: Any, theirs: Any) -> str | None:
    """Return how a member differs in kind or arguments from the one it takes the place of."""
    if isinstance(theirs, property) and inspect.isfunction(ours):
        return "must be a property; write @property above it"
    if inspect.isfunction(theirs) and isinstance(ours, property):
        return "must be a method, it is a property"
    if not (inspect.isfunction(theirs) and inspect.isfunction(ours)):
        return None
    given = inspect.signature(theirs)
    positional = [p.name for p in given.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    try:
        inspect.signature(ours).bind(*positional)
    except TypeError:
        told = ", ".join(positional)
        return f"must take ({told}), it takes {_written(ours)}"
    return None


def _written(function: Any) -> str:
    return f"({', '.join(inspect.signature(function).parameters)})"


def guard(
    plugin: type, checks: Mapping[str, Check], kind: str, early: Collection[str] = ()
) -> None:
    """Have what the hooks of a class return checked, and failures in them told by their name.

    Args:
        plugin: whose own hooks are replaced.
        checks: by the hooks' names.
        kind: of plug-in, for messages.
        early: the hooks that are asked before a run; their failures are `ConfigError`, those of
            others `RunError`.
    """
    for hook, check in checks.items():
        own = vars(plugin).get(hook)
        failure = ConfigError if hook in early else RunError
        if isinstance(own, property) and own.fget is not None:
            getter = _guarded(own.fget, check, f"{kind} {plugin.__name__}: {hook}", failure)
            setattr(plugin, hook, property(getter, doc=own.__doc__))
        elif inspect.isfunction(own):
            setattr(
                plugin, hook, _guarded(own, check, f"{kind} {plugin.__name__}: {hook}", failure)
            )


def _guarded(
    function: Callable[..., Any], check: Check, hook: str, failure: type[FedclError]
) -> Callable[..., Any]:
    """Return a hook that raises `failure` where it fails or returns what it must not."""

    @functools.wraps(function)
    def guarded(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            result = function(self, *arguments, **named)
        except FedclError:
            raise
        except Exception as error:
            log.debug("%s failed", hook, exc_info=True)
            raise failure(f"{hook} failed: {where(error)}") from error
        problem = check(result, *arguments, **named)
        if problem is not None:
            raise failure(f"{hook} {problem}")
        return result

    return guarded


def where(error: BaseException) -> str:
    """Return an exception in one line, with the place where it was raised."""
    reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    if not ours:
        return reason
    return f"{reason} ({Path(ours[-1].filename).name}, line {ours[-1].lineno})"
