"""`End`: how the main process of an exec ended."""

from .programs import Exit


class End:
    """How the main process of an exec ended."""

    def __init__(self, reason, exit=None, message=None):
        self.reason = reason
        self.exit = exit or Exit()
        self.message = message
        self.lengths = None
        self.output_cut = False

    def keys(self):
        """The keys of `EXITED` and `DONE` that describe this end."""
        keys = {"reason": self.reason}
        if self.exit.exit_code is not None:
            keys["exit_code"] = self.exit.exit_code
        if self.exit.signal is not None:
            keys["signal"] = self.exit.signal
        if self.exit.outcome is not None:
            keys.update(self.exit.outcome)
        if self.message is not None:
            keys["message"] = self.message
        return keys
