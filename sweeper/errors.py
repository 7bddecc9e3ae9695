"""What the user did wrong, or must decide: said in one message, never as a traceback."""


class UserError(Exception):
    """A mistake in a study file, an override or an argument: value, rule, way out."""

    exit_code = 2


class DriverBusy(UserError):
    """Another driver holds the study."""

    exit_code = 4


class JobsFailed(UserError):
    """Jobs ended without doing their work; the message names their log."""

    exit_code = 1


class StoreBusy(UserError):
    """The store of a study cannot be used now: held by others, damaged, or on a full disk.

    What was to be stored is kept in files as well, and can be put off to the next time.
    """


class DiskFull(StoreBusy):
    """A disk has no room left: no mistake in what was asked."""

    exit_code = 1


def shortened(value: object) -> str:
    """A value as a message shows it: what is ten pages long is not."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def printable(text: str) -> str:
    """A message as a terminal may show it: control characters and broken bytes by their codes."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
