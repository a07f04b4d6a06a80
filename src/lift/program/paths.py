"""Paths in requests, results and errors.

A path is text in JSON, or `{"b64": …}` if its bytes are not UTF-8. Inside the program, a path is
`bytes`. `checked` checks the path of an operation, and `Subject` creates errors that name both.
"""

import binascii
import errno
import os

from .builtins import BuiltinError, error_from
from .requests import BadRequest, check_keys, value_of

# The longest name of a file, in bytes.
MAX_NAME = 255
MAX_PERMISSIONS = 0o7777


def decode(value):
    """Returns the bytes of a path of a request, which `check_path` has accepted."""
    if isinstance(value, str):
        return value.encode()
    return _decode_base64(value["b64"])


def encode(path):
    """Returns the value of a path for JSON."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return {"b64": binascii.b2a_base64(path, newline=False).decode()}


def text(path):
    """Returns a path as text for a message. U+FFFD replaces bytes that are not UTF-8."""
    return path.decode("utf-8", "replace")


def check_path(request, key):
    """Raises `BadRequest` unless the value of `key` is a path."""
    value = value_of(request, key)
    check_keys(value, key)
    try:
        decode(value)
    except (AttributeError, TypeError, KeyError, ValueError):
        message = "'%s' is not a path: give text, or {\"b64\":BASE64}." % key
        raise BadRequest(message) from None


def resolve(what, path, home, may_be_empty=False):
    """Returns the path on this machine. Raises `BuiltinError` if the path is not valid."""
    return checked(what, path, may_be_empty).on_machine(home)


def checked(what, path, may_be_empty=False):
    """Returns the `Subject` of an operation. Raises `BuiltinError` if the path is not valid."""
    subject = Subject(what, path)
    if not path and not may_be_empty:
        raise subject.invalid("the path is empty; give the path of a file or directory")
    if b"\0" in path:
        raise subject.invalid("the path contains a zero byte; remove it")
    if any(len(name) > MAX_NAME for name in path.split(b"/")):
        raise subject.invalid("a name in the path is longer than 255 bytes; use a shorter name")
    return subject


class Subject:
    """An operation and its path. Creates errors that name both.

    `what` is the operation as it appears in messages, for example `read`.
    """

    def __init__(self, what, path):
        self.what = what
        self.path = path

    def on_machine(self, home):
        """Returns the absolute path. An empty path stands for the home."""
        return os.path.join(home, self.path)

    def fail(self, error):
        """Creates the error for an `OSError`."""
        return error_from(error, self.what, self.path)

    def fail_with(self, number):
        """Creates the error for the number of an error of the operating system."""
        return self.fail(OSError(number, os.strerror(number)))

    def refuse(self, kind, reason):
        """Creates the error of an operation that is refused."""
        message = "cannot %s '%s': %s" % (self.what, text(self.path), reason)
        return BuiltinError(kind, message, self.path)

    def invalid(self, reason):
        """Creates the error for a value that is not valid."""
        return self.refuse("invalid_input", reason)

    def not_a_file(self):
        """Creates the error for a path that is a pipe, a socket or a device."""
        reason = "it is a pipe, a socket or a device, not a regular file"
        return self.refuse("not_a_file", reason)

    def is_a_directory(self):
        """Creates the error for a directory in the place of a file."""
        return self.fail_with(errno.EISDIR)

    def check_permissions(self, permissions):
        """Raises an error if there are other bits than those of 0o7777."""
        if permissions is not None and permissions > MAX_PERMISSIONS:
            reason = "the permissions are greater than 0o7777; use only permission bits"
            raise self.invalid(reason)


def about_both(what, path, to, about, error):
    """Creates the error of an operation on two paths. `about` is the one that failed."""
    kind = error_from(error, what, about).kind
    message = "cannot %s '%s' to '%s': %s" % (what, text(path), text(to), error.strerror)
    return BuiltinError(kind, message, about)


def _decode_base64(text_in_base64):
    """Decodes base64 with padding. Raises `ValueError` for any other form."""
    encoded = text_in_base64.encode("ascii")
    decoded = binascii.a2b_base64(encoded)
    # `a2b_base64` ignores characters that are not base64.
    if binascii.b2a_base64(decoded, newline=False) != encoded:
        raise ValueError("not canonical base64")
    return decoded
