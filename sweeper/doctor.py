"""Every check that `doctor` makes, in the order in which they are shown."""

from collections.abc import Callable

from sweeper import checks, disk_checks, slurm_checks
from sweeper.checks import Check, Subject
from sweeper.errors import UserError

CHECKS: tuple[Callable[[Subject], Check], ...] = (
    checks.python,
    checks.packages,
    checks.torch,
    checks.deepspeed,
    checks.compiler,
    checks.gpu,
    checks.machine,
    disk_checks.space,
    disk_checks.clock,
    disk_checks.shared,
    disk_checks.permissions,
    disk_checks.stores,
    slurm_checks.slurm,
    slurm_checks.accounting,
    slurm_checks.settings,
    slurm_checks.place_in_queue,
    slurm_checks.probe,
)


def examine(subject: Subject) -> list[Check]:
    """Every check; one that could not be made has failed."""
    return [_made(check, subject) for check in CHECKS]


def _made(check: Callable[[Subject], Check], subject: Subject) -> Check:
    try:
        return check(subject)
    except (OSError, UserError) as error:
        name = check.__name__.replace("_", " ")
        return Check(name, "FAIL", f"could not be checked: {error}", "mend that, then ask again")
