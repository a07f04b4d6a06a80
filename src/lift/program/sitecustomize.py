"""Lets code in Python import modules from its working directory, as with `python3 -c`.

Not a part of the program: the lift's program and the local server write it to a directory that
comes first in the PYTHONPATH of code, so that Python imports it when it starts. It then resets
PYTHONPATH to the value that the client gave, for programs that the code starts. Code doesn't see
the directory in PYTHONPATH or `sys.path`.
"""


def _correct_path():
    import os
    import sys

    here = os.path.dirname(__file__)
    own, _, rest = os.environ.get("PYTHONPATH", "").partition(os.pathsep)
    if own != here or here not in sys.path:
        return
    if rest:
        os.environ["PYTHONPATH"] = rest
    else:
        del os.environ["PYTHONPATH"]
    place = sys.path.index(here)
    del sys.path[place]
    # The system may have a `sitecustomize` module, too.
    this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError:
        pass
    finally:
        # Also if the other module fails.
        sys.modules.setdefault("sitecustomize", this)
        try:
            sys.path.insert(place, os.getcwd())
        except OSError:
            # The working directory was removed.
            pass


if __name__ == "sitecustomize":
    _correct_path()
    del _correct_path
