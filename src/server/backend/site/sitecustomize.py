# Python imports this when it starts: the server puts the directory of this file into PYTHONPATH.
# It lets code import modules from the working directory, as with `python3 -c`, although the code is
# in a file elsewhere. It then resets PYTHONPATH to the caller's value, for programs that the code
# starts.
def _():
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
    # The machine may have a `sitecustomize` module, too.
    this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize
    except ImportError:
        pass
    sys.modules.setdefault("sitecustomize", this)
    try:
        sys.path.insert(place, os.getcwd())
    except OSError:
        # The working directory was removed.
        pass


_()
del _
