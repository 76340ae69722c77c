"""Errors of Posthouse that a person or a program may want to tell apart.

    PosthouseError
    ├── ConfigError (also ValueError)    a setting that cannot be used
    └── MissingExtra                     a part of the package that is not installed

Every error carries its facts as fields, and its text is one line that says what is wrong and what would be right.
The command line prints that line and ends with exit code 1; it never shows a traceback for a PosthouseError.
"""


class PosthouseError(Exception):
    """Base of all errors that Posthouse raises on purpose."""


class ConfigError(PosthouseError, ValueError):
    """A setting that cannot be used.

    `key` is how the place it came from names it (`limits.max_window`, `POSTHOUSE_LIMITS_MAX_WINDOW`, `--listen`),
    `problem` what is wrong with it (with the bad value, never with a secret), `allowed` what would be right.
    """

    def __init__(self, key: str, problem: str, allowed: str) -> None:
        super().__init__(key, problem, allowed)
        self.key = key
        self.problem = problem
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}; allowed: {self.allowed}"


class MissingExtra(PosthouseError):
    """Something was asked for whose packages are not installed. ``extra`` is the extra that has them."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, extra)
        self.what = what
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.what} needs more packages: pip install 'posthouse[{self.extra}]'"
