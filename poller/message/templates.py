"""Templates: Jinja2 files in one directory, in the reader's language where there is one.

A template NAME is up to three files; a NAME may begin with folders (`shop/welcome`), and holds no dots:

    NAME.subject.txt    the subject, unless the row gives one
    NAME.txt            the text part      } at least
    NAME.html           the HTML part      } one of them

and the same with a language before the rest: `NAME.de.subject.txt`, `NAME.de.txt`, `NAME.de_AT.html` (or `de-AT`).

Rule 1. One message, one language. For `de_AT` the files for `de_AT` are taken, each that is missing from `de`. Only
        when neither has a text or an HTML part is the row in the default language, with *all* its files from there:
        an English subject never stands over a German body.
Rule 2. Variables are escaped for HTML in every file but a `.txt`: an included part with any other ending is safe in
        HTML. An unknown variable is an error, never an empty place.
Rule 3. Templates are sandboxed and bounded (`poller.message.sandbox`). They can include and extend files of the
        directory, and nothing outside it. The same variables give the same text: `random` and `lipsum` are taken away.
Rule 4. A file that is edited takes effect with the next row; nothing needs to be restarted. Asking costs a `stat`.

Raises `Unsendable` with column `template`, `context` or `locale`, naming file and line where there is one.
"""

from __future__ import annotations

import re
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2

from poller.frozen import dataclass
from poller.message.characters import shown
from poller.message.draft import MissingVariable, TooLarge, Unsendable
from poller.message.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,100}/){0,8}[A-Za-z0-9_-]{1,100}")
_LOCALE = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8}){0,3}")
_SUFFIXES = {"subject": ".subject.txt", "text": ".txt", "html": ".html"}
_QUOTED = 200  # characters of an error that are shown
_CACHED = 400  # compiled templates, and choices of files
# What code in a template can raise. Not Exception: a fault of ours should not look like one of the template's.
_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # among them RecursionError: a template that includes itself
    TypeError,
    ValueError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """What a template gave; `subject` is None when it has no subject file or none was wanted."""

    subject: str | None
    text: str | None
    html: str | None


class Templates:
    """The templates of one directory; each part has `max_size` characters at most, all together take `max_seconds`.

    `inlined` makes of each HTML part what goes out.
    """

    def __init__(
        self,
        directory: str,
        max_size: int,
        max_seconds: float = 5.0,
        *,
        inlined: Callable[[str], str] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.most = max_size
        self._environment = _environment(directory, max_size, max_seconds)
        self._inlined = inlined
        self._choices: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}

    def render(self, name: str, context: object, locale: str | None, *, subject: bool) -> Rendered:
        """All parts of a template in the best language; the subject only if it is wanted."""
        variables = {} if context is None else context
        if not isinstance(variables, dict):
            raise Unsendable("context", 'not a JSON object; write it like {"name": "Anna"}')
        files = self._files(name, locale)
        if subject and "subject" not in files:
            remedy = f"add it, or give the row a subject of its own ({', '.join(files.values())} exists)"
            raise Unsendable("template", f"{name} has no file for the subject in that language; {remedy}")
        self._environment.begin()
        made = {part: self._part(file, variables) for part, file in files.items() if subject or part != "subject"}
        html = made.get("html")
        if html is not None and self._inlined is not None:
            html = self._inlined(html)
        return Rendered(subject=made.get("subject"), text=made.get("text"), html=html)

    def with_undefined(self, undefined: type[jinja2.Undefined]) -> Templates:
        """The same, but for what stands in the place of a variable that is not there."""
        other = copy(self)
        other._environment = self._environment.overlay(undefined=undefined)  # noqa: SLF001 - our own
        other._inlined = None  # noqa: SLF001
        return other

    def check(self) -> Iterator[str]:
        """What is wrong with the directory and with each file in it, in words."""
        if not self.directory.is_dir():
            yield f"[templates] directory: {self.directory} is not a directory; create it or correct the path"
            return
        for file in self._environment.list_templates(extensions=["txt", "html"]):
            try:
                self._environment.get_template(file)
            except _FAULTS as error:
                yield f"template {_place(error, file)}: {_words(error)}"

    def _part(self, file: str, variables: dict[str, Any]) -> str:
        pieces, length = [], 0
        try:
            template = self._environment.get_template(file)
            if not isinstance(template.globals, dict):
                template.globals = dict(template.globals)  # each rendering copies them: from a ChainMap in 15 µs
            for piece in template.generate(variables):
                pieces.append(piece)
                length += len(piece)
                if length > self.most:
                    break
        except _FAULTS as error:
            _refuse(error, file)
        if length > self.most:
            raise TooLarge(
                "template",
                f"{file} renders more than {self.most:,} characters ([templates] max_size); is a loop too long?",
            )
        return "".join(pieces)

    def _files(self, name: str, locale: str | None) -> dict[str, str]:
        """The file of each part; remembered until a folder changes."""
        if not _NAME.fullmatch(name):
            reason = "ASCII letters, digits, - and _ make a name, with / between folders"
            raise Unsendable("template", f"{shown(name)} is no template's name; {reason}, and no file extension")
        if locale and not _LOCALE.fullmatch(locale):
            raise Unsendable("locale", f'{shown(locale)} is no locale; write it like "de" or "de_AT"')
        key = (name, locale or "")
        changed = _changed((self.directory / name).parent)
        known = self._choices.get(key)
        if known is None or changed == 0 or known[0] != changed:
            if len(self._choices) >= _CACHED:
                self._choices.clear()
            known = self._choices[key] = (changed, self._chosen(name, locale or ""))
        return known[1]

    def _chosen(self, name: str, locale: str) -> dict[str, str]:
        """Rule 1."""
        levels = [self._present(name, spellings) for spellings in _spellings(locale)]
        spoken: dict[str, str] = {}
        for level in levels:
            spoken = level | spoken
        for files in (spoken, self._present(name, ("",))):
            if "text" in files or "html" in files:
                return files
        reason = f"no file {name}.txt or {name}.html" + (f", nor one for the language {locale}" if locale else "")
        raise Unsendable("template", f"{reason} in {self.directory}; create one, or correct the name")

    def _present(self, name: str, spellings: tuple[str, ...]) -> dict[str, str]:
        """The files of one level, by part; the first spelling wins."""
        found = {}
        for part, suffix in _SUFFIXES.items():
            for spelling in spellings:
                file = f"{name}.{spelling}{suffix}" if spelling else f"{name}{suffix}"
                if part not in found and _changed(self.directory / file):
                    found[part] = file
        return found


def _environment(directory: str, max_size: int, max_seconds: float) -> Sandbox:
    environment = Sandbox(
        max_size=max_size,
        max_seconds=max_seconds,
        loader=jinja2.FileSystemLoader(directory, encoding="utf-8-sig"),  # editors put a byte order mark in front
        undefined=jinja2.StrictUndefined,
        autoescape=_escaped,
        trim_blocks=True,  # a line that holds a tag only leaves no blank line in the text
        lstrip_blocks=True,
        keep_trailing_newline=True,
        cache_size=_CACHED,
    )
    del environment.filters["random"]
    del environment.globals["lipsum"]
    return environment


def _changed(path: Path) -> int:
    """When the file or folder was last changed, in nanoseconds; 0 when it cannot be reached."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _escaped(file: str | None) -> bool:
    return file is None or not file.endswith(".txt")


def _spellings(locale: str) -> Iterator[tuple[str, ...]]:
    """The levels of a locale from the most specific: de_AT and de-AT, then de."""
    parts = re.split("[-_]", locale) if locale else []
    while parts:
        language, *rest = parts
        usual = [language.lower(), *(part.upper() if len(part) == len("AT") else part.title() for part in rest)]
        yield tuple(dict.fromkeys(("_".join(usual), "-".join(usual), "_".join(parts), "-".join(parts))))
        parts.pop()


def _refuse(error: BaseException, file: str) -> NoReturn:
    place = _place(error, file)
    if isinstance(error, jinja2.UndefinedError):
        remedy = "add it to the context, or give it a default in the template: {{ name | default('') }}"
        raise MissingVariable("context", f"template {place}: {_words(error)}; {remedy}") from None
    raise Unsendable("template", f"{place}: {_words(error)}; correct the template") from None


def _place(error: BaseException, file: str) -> str:
    """File and line: of a syntax error, or the innermost template that was being rendered."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.name or file}, line {error.lineno}"
    place, trace = file, error.__traceback__
    while trace is not None:
        # Jinja2 rewrites its tracebacks so that templates stand in them as if they were Python files.
        if "__jinja_exception__" in trace.tb_frame.f_globals:
            place = f"{Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _words(error: BaseException) -> str:
    """The error in printable words, cut short: it may quote the row's own variables."""
    if isinstance(error, jinja2.TemplateNotFound):
        return f"there is no file {shown(str(error))}"
    if isinstance(error, RecursionError):
        return "it includes or calls itself without end"
    text = str(error.message) if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {error}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:_QUOTED])
