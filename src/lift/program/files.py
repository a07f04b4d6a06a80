"""The operations on files: their tables, and those that change names and permissions."""

import os
import stat

from . import paths
from .listing import list_directory, metadata
from .new_file import new_directories
from .reading import read
from .removing import remove
from .requests import BadRequest, boolean_of, check_keys, integer_of, text_of
from .writing import copy, write

MAX_U32 = 2**32 - 1


def create_dir(request, io):
    """Creates a directory and its missing parents. Succeeds if the directory already exists."""
    subject = paths.checked("create the directory", paths.decode(request["path"]))
    try:
        with new_directories(subject.on_machine(io.home)):
            pass
    except OSError as error:
        raise subject.fail(error) from None
    return {}


def rename(request, io):
    """Renames a file or directory. Replaces a file at the new path."""
    old = paths.checked("rename", paths.decode(request["path"]))
    new = paths.checked("rename to", paths.decode(request["to"]))
    old_path = old.on_machine(io.home)
    try:
        os.rename(old_path, new.on_machine(io.home))
    except OSError as error:
        # If the old path exists, the failure is about the new one.
        about = new.path if os.path.lexists(old_path) else old.path
        raise paths.about_both("rename", old.path, new.path, about, error) from None
    return {}


def set_permissions(request, io):
    """Sets the permission bits of a file. Follows links."""
    subject = paths.checked("set the permissions of", paths.decode(request["path"]))
    subject.check_permissions(request["permissions"])
    try:
        os.chmod(subject.on_machine(io.home), request["permissions"])
    except OSError as error:
        raise subject.fail(error) from None
    return {}


def link(request, io):
    """Creates a link to `target`.

    A relative target of a symbolic link is relative to the directory of the link, one of a hard
    link to the home.
    """
    subject = paths.checked("create the link", paths.decode(request["path"]))
    target = paths.checked("link to", paths.decode(request["target"]))
    path = subject.on_machine(io.home)
    if request["symbolic"]:
        try:
            os.symlink(target.path, path)
        except OSError as error:
            raise subject.fail(error) from None
        return {}
    file = target.on_machine(io.home)
    try:
        os.link(file, path, follow_symlinks=False)
    except OSError as error:
        about = target.path if _has_no_hard_link(file) else subject.path
        raise paths.about_both("link", subject.path, target.path, about, error) from None
    return {}


def _has_no_hard_link(path):
    """Whether there is no file at a path that could have a hard link."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return True


def _check_read(request):
    paths.check_path(request, "path")
    integer_of(request, "offset", None)
    integer_of(request, "length", None)


def _check_write(request):
    paths.check_path(request, "path")
    integer_of(request, "permissions", None, highest=MAX_U32)
    mode = request.get("mode")
    if isinstance(mode, dict) and list(mode) == ["at"]:
        check_keys(mode, "mode")
        integer_of(mode, "at")
    elif mode not in (None, "replace", "create", "append"):
        raise BadRequest("'mode' is not \"replace\", \"create\", \"append\" or {\"at\":OFFSET}.")


def _check_list(request):
    paths.check_path(request, "path")
    integer_of(request, "depth", None, highest=MAX_U32)
    text_of(request, "pattern", None)


def _check_metadata(request):
    paths.check_path(request, "path")
    boolean_of(request, "follow", None)


def _check_path(request):
    paths.check_path(request, "path")


def _check_remove(request):
    paths.check_path(request, "path")
    boolean_of(request, "recursive", None)


def _check_two_paths(request):
    paths.check_path(request, "path")
    paths.check_path(request, "to")


def _check_set_permissions(request):
    paths.check_path(request, "path")
    integer_of(request, "permissions", highest=MAX_U32)


def _check_link(request):
    paths.check_path(request, "path")
    paths.check_path(request, "target")
    boolean_of(request, "symbolic")


OPERATIONS = {
    "read": read,
    "write": write,
    "list": list_directory,
    "metadata": metadata,
    "create_dir": create_dir,
    "remove": remove,
    "rename": rename,
    "copy": copy,
    "set_permissions": set_permissions,
    "link": link,
}

CHECKS = {
    "read": _check_read,
    "write": _check_write,
    "list": _check_list,
    "metadata": _check_metadata,
    "create_dir": _check_path,
    "remove": _check_remove,
    "rename": _check_two_paths,
    "copy": _check_two_paths,
    "set_permissions": _check_set_permissions,
    "link": _check_link,
}
