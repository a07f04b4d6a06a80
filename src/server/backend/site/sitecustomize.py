# Python imports this when it starts: the server puts the directory of this file into PYTHONPATH.
# Modules of the working directory can then be imported, as with `python3 -c`, though the code is in
# a file elsewhere. Programs that the code starts find PYTHONPATH as the caller has set it.
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
    # The machine may have a module of this name, too.
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
