"""Checks what a client sends: the values of a message, and whole exec requests.

Every check raises `BadRequest` with a message for the client that names what is wrong.
"""

import json

REQUIRED = object()
"""The default of a key that must be present."""

MAX_INTEGER = 2**64 - 1

MAX_ID_BYTES = 128
MAX_VALUES = 1000
MAX_CWD_BYTES = 4096
MAX_BUILTIN_BYTES = 64 * 1024
MAX_TERMINAL = 4096

MAX_WINDOW = 1024 * 1024
"""The default, and the most that a client gets."""
MIN_WINDOW = 1024

DEFAULT_GRACE_MS = 2000
MAX_GRACE_MS = 24 * 60 * 60 * 1000
MAX_TIMEOUT_MS = 365 * 24 * 60 * 60 * 1000

LANGUAGES = {
    "python": "python",
    "python3": "python",
    "py": "python",
    "bash": "bash",
    "sh": "bash",
}
"""The languages by their names and aliases."""

PASSIVE = ("watch", "connect", "wait_for_port")
"""The builtins that may run forever, and don't keep the sandbox from becoming idle."""


class BadRequest(Exception):
    """The request is refused before anything starts."""

    status = "SANDBOX_EXECUTION_ERROR"

    def __init__(self, message):
        super().__init__(message)
        self.message = message


class UnsupportedLanguage(BadRequest):
    status = "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR"

    def __init__(self, name):
        shown = name if len(name) <= 100 else name[:100] + "…"
        message = "Unsupported language: '%s'. Supported languages are: python, bash"
        super().__init__(message % shown)


class Repeating(dict):
    """An object that contains a key twice. It is refused, because it has no single meaning."""


def object_from(pairs):
    """The hook of the JSON parser for objects."""
    value = dict(pairs)
    return value if len(value) == len(pairs) else Repeating(value)


# The values of a message.


def value_of(message, key, default=REQUIRED):
    """Returns the value of a key. `null` counts as an absent key."""
    value = message.get(key)
    if value is not None:
        return value
    if default is REQUIRED:
        raise BadRequest("'%s' is missing." % key)
    return default


def text_of(message, key, default=REQUIRED):
    value = value_of(message, key, default)
    if value is not default and not is_text(value):
        raise BadRequest("'%s' is not text." % key)
    return value


def boolean_of(message, key, default=REQUIRED):
    value = value_of(message, key, default)
    if value is not default and not isinstance(value, bool):
        raise BadRequest("'%s' is neither true nor false." % key)
    return value


def integer_of(message, key, default=REQUIRED, lowest=0, highest=MAX_INTEGER):
    value = value_of(message, key, default)
    if value is default:
        return value
    if not is_integer(value) or not lowest <= value <= highest:
        raise BadRequest("'%s' is not an integer from %d to %d." % (key, lowest, highest))
    return value


def window_of(message):
    """The window that the client gets for the output of an exec."""
    return max(min(integer_of(message, "window", MAX_WINDOW), MAX_WINDOW), MIN_WINDOW)


def object_of(message, key, default=REQUIRED):
    value = value_of(message, key, default)
    if value is default:
        return value
    if not isinstance(value, dict):
        raise BadRequest("'%s' is not an object." % key)
    check_keys(value, key)
    return value


def list_of_text(message, key, default=REQUIRED):
    value = value_of(message, key, default)
    if value is default:
        return value
    if not isinstance(value, list) or not all(is_text(it) for it in value):
        raise BadRequest("'%s' is not a list of text." % key)
    return value


def check_keys(value, what):
    """Refuses an object that contains a key twice."""
    if isinstance(value, Repeating):
        raise BadRequest("'%s' contains a key twice." % what)


def is_integer(value):
    """Whether a value of JSON is an integer. In Python, a boolean is one, too."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value):
    """Whether a value of JSON is text that UTF-8 can express. JSON can contain one half of a pair
    of surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# Exec requests.


class Request:
    """A checked exec request. Its program is `code`, `argv` or `builtin`; the others are `None`.

    Text for the operating system is `bytes`.
    """

    def __init__(self, message):
        """Raises `BadRequest`."""
        check_keys(message, "The request")
        self.exec = text_of(message, "exec")
        if not 1 <= len(self.exec.encode()) <= MAX_ID_BYTES:
            raise BadRequest("'exec' must be text of 1 to %d bytes." % MAX_ID_BYTES)
        self.window = window_of(message)
        self.binary = boolean_of(message, "binary", False)
        self.language = self.code = self.argv = self.builtin = None
        self.args = []
        self.env = {}
        self.cwd = self.terminal = self.timeout_ms = None
        self.output_grace = DEFAULT_GRACE_MS / 1000
        self._read_program(message)
        if self.builtin is None:
            self._read_options(message)

    @property
    def kind(self):
        """How the exec counts: as `"program"`, `"builtin"` or `"passive"` builtin."""
        if self.builtin is None:
            return "program"
        return "passive" if self.builtin["op"] in PASSIVE else "builtin"

    @property
    def label(self):
        """What runs, for the client: the interpreter, the program or the operation."""
        if self.code is not None:
            return {"python": "python3"}.get(self.language, self.language)
        if self.argv is not None:
            return self.argv[0].decode()[:200]
        return self.builtin["op"]

    def _read_program(self, message):
        has_code = not (message.get("language") is None and message.get("code") is None)
        has_argv = message.get("argv") is not None
        has_builtin = message.get("builtin") is not None
        if has_code + has_argv + has_builtin != 1:
            raise BadRequest("Give either 'language' and 'code', or 'argv', or 'builtin'.")
        if has_code:
            self.language = language_of(message)
            self.code = text_of(message, "code").encode()
        elif has_argv:
            self.argv = words(list_of_text(message, "argv"), "argv")
            if not self.argv:
                raise BadRequest("'argv' must name a program.")
        else:
            self.builtin = builtin_of(message)

    def _read_options(self, message):
        self.args = words(list_of_text(message, "args", []), "args")
        self.env = variables_of(message)
        count = len(self.env) + len(self.args if self.argv is None else self.argv)
        if count > MAX_VALUES:
            message = "There are more than %d arguments and environment variables."
            raise BadRequest(message % MAX_VALUES)
        self.cwd = cwd_of(message)
        self.terminal = size_of(message, "terminal", None)
        self.timeout_ms = integer_of(message, "timeout_ms", None)
        if self.timeout_ms is not None:
            self.timeout_ms = min(self.timeout_ms, MAX_TIMEOUT_MS)
        grace_ms = integer_of(message, "output_grace_ms", DEFAULT_GRACE_MS)
        self.output_grace = min(grace_ms, MAX_GRACE_MS) / 1000


def language_of(message):
    name = message.get("language")
    if not isinstance(name, str):
        name = json.dumps(name) if name is not None else "None"
    if name not in LANGUAGES:
        raise UnsupportedLanguage(name)
    return LANGUAGES[name]


def builtin_of(message):
    """The value of `builtin`, with an `op`."""
    builtin = object_of(message, "builtin")
    compact = json.dumps(builtin, ensure_ascii=False, separators=(",", ":"))
    if len(compact.encode(errors="replace")) > MAX_BUILTIN_BYTES:
        raise BadRequest("'builtin' is longer than %d bytes." % MAX_BUILTIN_BYTES)
    text_of(builtin, "op")
    return builtin


def variables_of(message):
    """The environment variables of a request."""
    env = object_of(message, "env", {})
    if not all(is_text(value) for pair in env.items() for value in pair):
        raise BadRequest("'env' is not an object of text.")
    for name in env:
        if not name or "=" in name or "\0" in name:
            shown = name[:100].replace("\0", "\ufffd")
            raise BadRequest("'%s' is not a valid name for an environment variable." % shown)
    values = words(env.values(), "env")
    return dict(zip((name.encode() for name in env), values))


def cwd_of(message):
    cwd = text_of(message, "cwd", None)
    if cwd is None:
        return None
    (cwd,) = words([cwd], "cwd")
    if len(cwd) > MAX_CWD_BYTES:
        raise BadRequest("'cwd' is longer than %d bytes." % MAX_CWD_BYTES)
    return cwd


def size_of(message, key, default=REQUIRED):
    """The size of a terminal: columns and rows."""
    size = object_of(message, key, default)
    if size is default:
        return size
    columns, rows = (integer_of(size, name) for name in ("columns", "rows"))
    if not (1 <= columns <= MAX_TERMINAL and 1 <= rows <= MAX_TERMINAL):
        message = "'%s' must have 'columns' and 'rows' from 1 to %d."
        raise BadRequest(message % (key, MAX_TERMINAL))
    return columns, rows


def words(texts, key):
    """Text for the operating system, as bytes."""
    encoded = [text.encode() for text in texts]
    if any(b"\0" in word for word in encoded):
        raise BadRequest("'%s' contains a zero byte." % key)
    return encoded
