"""The commands. Hydra ends here."""

from __future__ import annotations

import sys
from importlib.util import find_spec

if find_spec("hydra") is None:
    print("the commands need more than the library does: pip install 'qat[train]'", file=sys.stderr)
    raise SystemExit(2)
