"""How much bad data is left out, and when it is too much."""

from __future__ import annotations

import logging

from qat.errors import DataError

_log = logging.getLogger(__name__)


def check_budget(
    bad: list[str], scanned: int, budget: float, *, what: str = "images cannot be decoded", key: str = "data.corrupt_budget"
) -> None:
    """Name what is left out; refuse more than the budget.

    Args:
        bad: name and reason of each.
        scanned: how many were looked at.
        budget: tolerated share of them.
        what: the second half of "3 of 100 ...".
        key: what sets the budget.

    Raises:
        DataError: more than the budget is bad.
    """
    if not bad:
        return
    listed = "\n  ".join(bad[:10]) + (f"\n  and {len(bad) - 10} more" if len(bad) > 10 else "")
    found = f"{len(bad)} of {scanned} {what}"
    if len(bad) > budget * scanned:
        raise DataError(
            f"{found}, more than {key}={budget:g} allows ({int(budget * scanned)}):\n  {listed}\n"
            f"Repair or remove them, or raise {key}."
        )
    _log.warning("%s and are left out:\n  %s", found, listed)
