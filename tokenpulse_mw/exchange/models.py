"""Names of models, folded and bounded, so that they can be labels of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import translate
from functools import lru_cache
from threading import Lock

from ..validation import check_integer, check_strings
from .exchange import SWITCHING_PROTOCOLS, Exchange
from .vendors import HOSTS, VENDORS

OTHER = "other"
UNKNOWN = "unknown"

MAX_MODEL_CHARS = 256  # of a name that is read; it also bounds the caches
_MAX_PREFIXES = 8  # of a name: `openrouter/deepseek/`, `us.anthropic.`, those of an ARN
_MAX_CACHED = 4096

_PREFIX_END = re.compile("[/.:]")
_DECLARED = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._:/@+-]{0,127}")
_FOLDED = re.compile(r"[a-z0-9][a-z0-9._:+-]{0,60}")

# Vendors and regions before the dots of the ids of Bedrock.
_REGIONS = ("us", "us-gov", "eu", "apac", "ap", "jp", "au", "ca", "sa", "me", "af", "global")
_DOTTED = frozenset(
    (
        *_REGIONS,
        *(name for names in VENDORS for name in names),
        *(pattern.removesuffix(".*") for pattern in HOSTS["bedrock"]),
    )
)
_BARE_VERSION = re.compile(r"[a-z]\d+(?:\.\d+)?")  # of a model that has no name: `deepseek.r1`

_YEAR, _MONTH, _DAY = "20[2-9][0-9]", "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
_DATES = (
    f"{_YEAR}-{_MONTH}-{_DAY}",  # gpt-5-mini-2025-08-07
    f"{_YEAR}{_MONTH}{_DAY}",  # claude-sonnet-4-5-20250929
    f"{_MONTH}-{_YEAR}",  # gemini-2.5-flash-preview-09-2025
    f"{_YEAR}-{_MONTH}",  # jamba-large-1.7-2025-07
    f"2[3-9]{_MONTH}{_DAY}",  # doubao-seed-1-6-250615
    f"2[3-9]{_MONTH}",  # mistral-large-2411
    f"{_MONTH}{_DAY}",  # gpt-4-0613
    f"{_MONTH}-{_DAY}",  # gemini-2.5-pro-preview-05-06
)
_VERSIONS = (
    re.compile(rf"[-@]{_YEAR}{_MONTH}{_DAY}-v\d+(?::\d+)?(?::\d+k)?\Z"),  # Bedrock, dated
    re.compile(r"-v?1:\d+(?::\d+k)?\Z"),  # Bedrock: amazon.nova-pro-v1:0, openai.gpt-oss-20b-1:0
    re.compile(r"(?<=-v\d):\d+(?::\d+k)?\Z"),  # a later version is another model: titan-embed-v2
    re.compile(r"@(?:\d+|latest|default)\Z"),  # Vertex AI: claude-sonnet-4@20250514
    re.compile(r"[-:]latest\Z"),
    re.compile(rf"-(?:{'|'.join(_DATES)})\Z"),
)
_GEMINI_VERSION = re.compile(r"(gemini-.+)-00\d\Z")


class Models:
    """Bounded set of models that are counted by name.

    The label of a model is its folded name (`fold_model`) if it is declared, or among the first
    `max_seen` other models that responded. All further models are `other`. A name that only a
    client has sent gets no label of its own. Each process has its own first models.

    Args:
        names: Models that always have a label, such as "gpt-5-mini"; the label is the name as
            declared. A declared name with a date or a prefix is not folded.
        aliases: Labels by other names of the same model, such as those of a deployment:
            `{"prod-chat": "gpt-5-mini", "acme-*": "llama-3.3"}`. `*` stands for any characters.
            An alias precedes every other rule, and its label counts as declared.
        max_seen: Number of labels for models that are not declared; 0 for none.

    Raises:
        ValueError: A name or a label is malformed or reserved, or `max_seen` is not an integer.
    """

    def __init__(
        self,
        names: Iterable[str] = (),
        *,
        aliases: Mapping[str, str] | None = None,
        max_seen: int = 200,
    ) -> None:
        declared = check_strings("models", names, '["gpt-5-mini", "claude-sonnet-4-5"]')
        self._aliases = _check_aliases({} if aliases is None else aliases)
        for name in declared:
            _check_name("model", name)
        labels = [label for _, label in self._aliases]
        self._declared = {name.lower(): name for name in (*labels, *declared)}
        self._max_seen = check_integer("max_seen", max_seen, minimum=0)
        self._known = set(self._declared.values())
        self._seen: set[str] = set()
        self._lock = Lock()
        self._folded = lru_cache(maxsize=_MAX_CACHED)(self._fold)

    def label(self, model: str | None, *, responded: bool = False) -> str:
        """Return the label of `model`: its folded name, `other`, or `unknown` if it is None.

        Args:
            model: Name in a request or a response.
            responded: True if the model has responded, so that it can get a label of its own.
        """
        if not model:
            return UNKNOWN
        if len(model) > MAX_MODEL_CHARS:
            return OTHER
        name = self._folded(model)
        if name in self._known or (responded and self._admit(name)):
            return name
        return OTHER

    def declared_label(self, model: str) -> str:
        """Return the label of `model` if it is declared, else `other`: it never changes."""
        name = OTHER if len(model) > MAX_MODEL_CHARS else self._folded(model)
        return name if name.lower() in self._declared else OTHER

    def label_of(self, exchange: Exchange) -> str:
        """Return the label of the model of a finished exchange.

        The model has responded if the status is 2xx, or 101 for a response over a WebSocket, and
        the response has a usage or names it.
        """
        model = exchange.model
        if model is None:
            return UNKNOWN
        succeeded = 200 <= exchange.status < 300 or exchange.status == SWITCHING_PROTOCOLS
        responded = succeeded and (
            exchange.model_source == "response" or exchange.usage is not None
        )
        return self.label(model, responded=responded)

    def clear(self) -> None:
        """Remove the labels of models that responded; the declared ones stay."""
        with self._lock:
            self._seen.clear()
            self._known = set(self._declared.values())

    def _admit(self, name: str) -> bool:
        """Give `name` a label if there is room; return True if it has one."""
        with self._lock:
            has_room = name != OTHER and len(self._seen) < self._max_seen
            if has_room:
                self._seen.add(name)
                self._known.add(name)
        return has_room

    def _fold(self, model: str) -> str:
        """Return the label of a model if it has one of its own; `other` for an invalid name."""
        name = model.lower()
        forms = [*without_prefixes(name), fold_model(name) or OTHER]
        for form in forms:
            for pattern, label in self._aliases:
                if pattern.match(form):
                    return label
        return next((self._declared[form] for form in forms if form in self._declared), forms[-1])


def without_prefixes(name: str) -> Iterator[str]:
    """Yield `name`, then the rest after each of its first prefixes, such as `openrouter/`."""
    yield name
    for _ in range(_MAX_PREFIXES - 1):
        end = _PREFIX_END.search(name)
        if end is None:
            return
        name = name[end.end() :]
        yield name


def fold_model(name: str) -> str | None:
    """Return the name of a model without prefixes, date and version; None if it is invalid.

    In this order: the name becomes lower case; prefixes up to the last `/` are removed, then
    regions and vendors before a dot, such as `us.anthropic.`; what follows the base model of a
    fine-tuned model is removed; then the version of Bedrock and Vertex AI, `latest` and a date at
    the end.
    A valid result is 1 to 61 ASCII letters, digits, `.`, `_`, `:`, `+` and `-`, and neither
    `other` nor `unknown`.
    """
    return None if len(name) > MAX_MODEL_CHARS else _fold(name)


@lru_cache(maxsize=_MAX_CACHED)
def _fold(name: str) -> str | None:
    name = name.lower().rpartition("/")[2]
    vendor, dot, rest = name.partition(".")
    owner = ""
    while dot and vendor in _DOTTED:
        owner, name = vendor, rest
        vendor, dot, rest = name.partition(".")
    is_tuned = name.startswith("ft:")
    if is_tuned:
        name = name.split(":", 2)[1]
    for version in _VERSIONS:
        name = version.sub("", name)
    name = _GEMINI_VERSION.sub(r"\1", name)
    if owner and _BARE_VERSION.fullmatch(name):
        name = f"{owner}-{name}"
    if not _FOLDED.fullmatch(name) or name in (OTHER, UNKNOWN):
        return None
    return f"ft:{name}" if is_tuned else name


def model_pattern(parameter: str, pattern: object) -> re.Pattern[str]:
    """Return the regex of a pattern of model names, in which `*` stands for any characters.

    Raises:
        ValueError: `pattern` is not a name with letters, digits, `.`, `_`, `:`, `/`, `@`, `+`, `-`
            and `*`.
    """
    is_valid = isinstance(pattern, str) and _DECLARED.fullmatch(pattern.replace("*", "a"))
    if not is_valid:
        raise ValueError(
            f'{parameter} must be the name of a model or a pattern such as "gpt-5*", '
            f"got {pattern!r}"
        )
    return re.compile(translate(str(pattern).lower()))


def _check_aliases(aliases: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    if not isinstance(aliases, Mapping):
        raise ValueError(
            f'model aliases must be a mapping, such as {{"prod-chat": "gpt-5"}}, got {aliases!r}'
        )
    return [
        (model_pattern("model alias", alias), _check_name("label of a model alias", label))
        for alias, label in aliases.items()
    ]


def _check_name(parameter: str, name: object) -> str:
    if not isinstance(name, str) or not _DECLARED.fullmatch(name):
        raise ValueError(
            f"{parameter} must be 1 to 128 ASCII letters, digits, '.', '_', ':', '/', '@', '+' or "
            f"'-', got {name!r}; for a pattern, use an alias"
        )
    if name.lower() in (OTHER, UNKNOWN):
        raise ValueError(f"{parameter} must not be {name!r}, which is reserved")
    return name
