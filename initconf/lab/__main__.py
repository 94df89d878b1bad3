"""`python -m initconf.lab`: the Hydra application of `initconf.lab.run`."""

import os
import sys
from types import TracebackType

from hydra.errors import CompactHydraException

from initconf.lab.run import main


def _briefly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What is wrong with a configuration, as its text alone; anything else as ever."""
    if isinstance(error, CompactHydraException):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        sys.excepthook = _briefly  # Hydra 1.3 leaves the traceback out itself, 1.4 asks the hook
    main()
