"""What can end a benchmark, or leave one server out of it."""


class BenchError(Exception):
    """The benchmark cannot go on; the text says why in one line."""


class NotMeasured(Exception):
    """One server is left out; the text says why in one line."""


class RunFailed(Exception):
    """One run gave no figures; the others go on."""
