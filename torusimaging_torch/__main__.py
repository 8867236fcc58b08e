"""The command ``torusimaging-torch``, as ``python -m torusimaging_torch``."""

from torusimaging_torch.command.main import main

__all__: list[str] = []

if __name__ == "__main__":
    raise SystemExit(main())
