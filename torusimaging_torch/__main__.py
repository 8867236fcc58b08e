"""The command ``torusimaging-torch``, installed or as ``python -m torusimaging_torch``."""

from __future__ import annotations

import sys

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run the command with the arguments of the process.

    Whoever changes their mind while modules are still being imported gets a line, too.

    Returns
    -------
    int
        The exit code; see `torusimaging_torch.command.main`.
    """
    try:
        from torusimaging_torch.command.main import main as run

        return run()
    except KeyboardInterrupt:
        print("torusimaging-torch: interrupted; nothing was written", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
