"""Names on the command line: a method of the library, its options, something in a user's module."""

import ast
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

import jaxplain

# The rooms whose functions of f explain one example.
_METHOD_ROOMS = ("gradients", "paths", "sobol")
# Options that have a place of their own on the command line, or are read off the model.
_TAKEN = frozenset({"chunk_size", "classes"})
# Functions of f whose result is not one value for each element of the input; and main_effects:
# jaxlib's batched LAPACK calls on CPU hand their parts to the pool of threads that runs them, and
# wait, so that with as many CPU devices as threads (8 devices, 500 masks) eigenvalues never end.
_NO_METHODS = frozenset(
    {
        "expected_hessian_row",
        "expected_hessians",
        "integrated_hessian_row",
        "integrated_hessians",
        "main_effects",
        "rounds",
        "wavelet_attribution",
    }
)


def methods() -> dict[str, Callable[..., Any]]:
    """The methods of the library by their names, with and without the room."""
    found: dict[str, Callable[..., Any]] = {}
    for room in _METHOD_ROOMS:
        module = getattr(jaxplain, room)
        for name in module.__all__:
            value = getattr(module, name)
            if (
                name not in _NO_METHODS
                and inspect.isfunction(value)
                and _arguments(value) == ["f"]  # and not the inputs of a sensitivity analysis
            ):
                found[f"{room}.{name}"] = value
                found[name] = value
    return found


def _arguments(function: Callable[..., Any]) -> list[str]:
    """The names of those that are no options."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


def method(name: str) -> Callable[..., Any]:
    """A method of the library: "integrated_gradients", "paths.integrated_gradients"."""
    known = methods()
    wanted = name.removeprefix("jaxplain.")
    if wanted not in known:
        _unknown("method", name, [n for n in known if "." not in n])
    return known[wanted]


def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a method: its keyword-only arguments."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _TAKEN}


def describe(function: Callable[..., Any], option: str) -> str:
    """What the docstring of a method says of an option, on one line."""
    text = inspect.getdoc(function) or ""
    found = re.search(rf"^    {option}: (.*(?:\n {{8}}.*)*)", text, flags=re.M)
    return " ".join(found[1].split()) if found else ""


def parse_options(known: Collection[str], words: Sequence[str]) -> dict[str, Any]:
    """`--steps 64 --rule paths.midpoint` as keyword arguments, of those that are known."""
    options: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{word!r} stands alone: an option is written `--name value`.")
        flag, _, value = word[2:].partition("=")
        name = flag.replace("-", "_")
        if name not in known:
            # What the user may have meant can be an option of the command as well.
            _unknown("option", f"--{flag}", [f"--{n.replace('_', '-')}" for n in known])
        if not value:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"--{flag} needs a value.")
            value = rest.pop(0)
        if name in options:
            raise ValueError(f"--{flag} is given twice.")
        options[name] = _value(value)
    return options


def _value(text: str) -> Any:
    """A Python literal, a name of the library, a call of one with literals, or the text itself.

    `0.5`, `paths.midpoint`, `sobol.estimators.jansen`, `masks.grid(4, 4)`.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:
        return text
    if not isinstance(node, ast.Call):
        found, value = _public(text)
        return value if found else text
    found, function = _public(ast.unparse(node.func))
    if not found:
        return text
    try:
        given = [ast.literal_eval(value) for value in node.args]
        named = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    except ValueError:
        raise ValueError(
            f"{text}: the arguments must be Python literals, as in `masks.grid(4, 4)`."
        ) from None
    return function(*given, **named)


def _public(text: str) -> tuple[bool, Any]:
    """Whether the text is `room.name` of the library, or `room.module.name`, and what it names."""
    room, *names = text.removeprefix("jaxplain.").split(".")
    if not names or room not in jaxplain.__all__:
        return False, None
    value = getattr(jaxplain, room)
    for name in names:
        known = getattr(value, "__all__", ())
        if name not in known:
            _unknown("function", text, [f"{room}.{n}" for n in known])
        value, room = getattr(value, name), f"{room}.{name}"
    return True, value


def load(name: str, what: str) -> Any:
    """The object `package.module:attribute`; modules of the current folder are found too."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{what} must be `package.module:name`, but is {name!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises is the user's to read
        raise ValueError(
            f"{what}: importing {module_name!r} failed: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        _unknown(f"name in module {module_name}", attribute, public)
    return getattr(module, attribute)


def call(factory: Callable[[], Any], name: str, what: str) -> Any:
    """What the user's function returns."""
    try:
        return factory()
    except Exception as error:  # whatever the user's function raises is the user's to read
        raise ValueError(f"{what}: {name}() failed: {type(error).__name__}: {error}") from error


def _unknown(kind: str, name: str, known: Sequence[str]) -> NoReturn:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    elif known:
        hint = f"There are: {', '.join(sorted(known))}."
    else:
        hint = "There are none."
    raise ValueError(f"there is no {kind} {name}. {hint}")
