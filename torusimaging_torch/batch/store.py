"""A folder of finished shards that survives: whatever is there is complete and was checked.

Each shard is one parquet file, written under a temporary name and renamed when it is complete. A
lock that the operating system drops when its process dies keeps two processes from computing the
same shard; where a file system has no locks a shard may be computed twice, to the same end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable
from filelock import FileLock, Timeout

from torusimaging_torch.catalogue.endings import as_path
from torusimaging_torch.results.atomic import replaced_file
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.checksum import seal
from torusimaging_torch.results.file_format import decode
from torusimaging_torch.units import BinnedData

__all__ = ["DamagedPartError", "Store", "data_fingerprint", "merge"]

_MANIFEST = "store.json"
_COUNT = "count.json"
_FORMAT = "torusimaging_torch store"


class DamagedPartError(ValueError):
    """A part of a store that cannot be read, or is not what was written."""


def data_fingerprint(subsamples: Sequence[BinnedData], names: Sequence[str]) -> str:
    """Return a text that other data, or other names of them, do not have."""
    digest = hashlib.sha256(json.dumps(list(names)).encode())
    for data in subsamples:
        _update(digest, data)
    return digest.hexdigest()


def _update(digest: Any, data: BinnedData) -> None:
    for key in sorted(data):
        value = data[key]
        if isinstance(value, Mapping):
            digest.update(f"{key} of several".encode())
            _update(digest, value)
            continue
        array = np.ascontiguousarray(getattr(value, "value", value))
        head = f"{key} {array.dtype.str} {array.shape} {getattr(value, 'unit', None)}"
        digest.update(head.encode())
        digest.update(array.tobytes())


class Store:
    """A folder with one part per shard.

    Parameters
    ----------
    folder
        Made if it is not there.
    fingerprint
        Of the settings; None to read whatever is there.
    shard_size
        Subsamples per shard; by default what the folder has, or ``default_size``.

    Raises
    ------
    ValueError
        If the folder was made with other settings, or holds something else.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        fingerprint: str | None = None,
        shard_size: int | None = None,
        default_size: int = 64,
    ) -> None:
        for library in ("pyarrow", "pandas"):
            if find_spec(library) is None:
                raise ImportError(f"a store needs {library}: install torusimaging-torch[io]")
        self.folder = as_path(folder)
        manifest = self._read_json(_MANIFEST)
        if manifest is None:
            if fingerprint is None:
                raise FileNotFoundError(f"there is no store in {folder}: no file {_MANIFEST}")
            self._refuse_other_files()
            manifest = {
                "format": _FORMAT,
                "fingerprint": fingerprint,
                "shard_size": default_size if shard_size is None else shard_size,
                "identity": secrets.token_hex(8),
            }
            self._write_json(_MANIFEST, manifest)
            # Another process may have been a moment faster, with settings of its own.
            manifest = self._read_json(_MANIFEST) or manifest
        self._check(manifest, fingerprint, shard_size)
        self.shard_size = int(manifest["shard_size"])

    def _check(
        self, manifest: Mapping[str, object], fingerprint: str | None, shard_size: int | None
    ) -> None:
        if manifest.get("format") != _FORMAT:
            raise ValueError(f"{self.folder / _MANIFEST} is not that of a store")
        if fingerprint is not None and manifest["fingerprint"] != fingerprint:
            raise ValueError(
                f"the store in {self.folder} was made with other settings (knots, bounds, penalty, "
                "objective, seed, ...): take another folder, or the same settings"
            )
        if shard_size is not None and manifest["shard_size"] != shard_size:
            raise ValueError(
                f"the store in {self.folder} has {manifest['shard_size']} subsamples per shard, "
                f"got shard_size={shard_size}: leave it out to go on"
            )

    def _refuse_other_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        foreign = [p.name for p in self.folder.iterdir() if not p.name.startswith((".", "store"))]
        if foreign:
            raise ValueError(
                f"{self.folder} is no store and not empty (it has {sorted(foreign)[0]}): "
                "take a new folder"
            )

    @property
    def identity(self) -> str | None:
        """What tells this store from any other, also from one of the same name elsewhere."""
        return (self._read_json(_MANIFEST) or {}).get("identity")

    def part(self, shard: int) -> Path:
        """Return the name of a shard's file."""
        return self.folder / f"part-{shard:06d}.parquet"

    def shards(self) -> list[int]:
        """Return the numbers of the shards that are there, in order."""
        names = (re.fullmatch(r"part-(\d+)\.parquet", p.name) for p in self.folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def write(self, shard: int, result: BatchResult, data: str) -> None:
        """Write a shard; it appears when it is complete.

        Parameters
        ----------
        shard
            Its number.
        result
            Its fits.
        data
            Fingerprint of its data.

        Raises
        ------
        OSError
            If it cannot be written; the message says what is safe.
        """
        table = result.to_table(covariance=True)
        table.meta |= {"DATA": data, "PART": json.dumps(self._place(shard))}
        seal(table)
        try:
            with replaced_file(self.part(shard)) as temporary:
                table.write(temporary, format="parquet")
                _sync(temporary)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {self.part(shard)} ({error.strerror or error}); the "
                f"{len(self.shards())} shards already there are complete: make room and run again "
                "to go on",
            ) from error

    def _place(self, shard: int) -> dict[str, object]:
        """Return what ties a part to this store: its number, and which store of what settings."""
        manifest = self._read_json(_MANIFEST) or {}
        return {"number": shard, **{k: manifest.get(k) for k in ("identity", "fingerprint")}}

    def _name_place(self, place: Mapping[str, object]) -> str:
        here = self._place(0)
        if place.get("identity") != here["identity"]:
            return "a part of another store"
        if place.get("fingerprint") != here["fingerprint"]:
            return "a part made with other settings"
        return f"the part {place.get('number')} of this store"

    def read(self, shard: int, data: str | None = None, trust: bool = False) -> BatchResult:
        """Read a shard.

        Parameters
        ----------
        shard
            Its number.
        data
            Fingerprint of the data that it has to be about; any by default.
        trust
            As for `torusimaging_torch.results.BatchResult.read`.

        Raises
        ------
        DamagedPartError
            If the file is damaged.
        ValueError
            If it is another part, or of another store, or about other data.
        """
        path = self.part(shard)
        try:
            table = QTable.read(path, format="parquet")
            result = BatchResult(**decode(table, trust))
            place = json.loads(table.meta["PART"])
        except (FileNotFoundError, MemoryError):
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DamagedPartError(f"{path} is damaged: {reason}") from None
        if place != self._place(shard):
            raise ValueError(
                f"{path} is not what was written there but {self._name_place(place)}: put it back, "
                "or remove it to have the part made again"
            )
        if data is not None and table.meta["DATA"] != data:
            raise ValueError(
                f"{path} was made from other data: the subsamples, their order or their names have "
                "changed; take another folder"
            )
        return result

    @contextmanager
    def lock(self, shard: int, wait: bool = False) -> Iterator[bool]:
        """Hold the right to compute a shard, until the end or the death of this process.

        Parameters
        ----------
        shard
            Its number.
        wait
            Whether to wait if another process has it.

        Yields
        ------
        bool
            Whether it was obtained.
        """
        (self.folder / ".locks").mkdir(exist_ok=True)
        lock = FileLock(self.folder / ".locks" / f"{shard:06d}", timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except (OSError, NotImplementedError):
            pass  # a file system without locks
        try:
            yield True
        finally:
            lock.release()

    def set_count(self, n_shards: int | None) -> None:
        """Note the number of all shards that were ever asked for; None if it is not known yet.

        A smaller number does not take the place of a larger one.
        """
        known = self._read_json(_COUNT) or {"shards": 0, "at_least": 0}
        least = max(known["shards"] or known.get("at_least", 0), n_shards or 0)
        found = {"shards": least if n_shards else None, "at_least": least}
        if known != found:
            self._write_json(_COUNT, found)

    def count(self) -> int | None:
        """Return the number of all shards, if it is known."""
        count = (self._read_json(_COUNT) or {}).get("shards")
        return None if count is None else int(count)

    def merge(self, partial: bool = False, trust: bool = False) -> BatchResult:
        """Read all parts and join them, in order.

        Parameters
        ----------
        partial
            Whether to be content with the parts that are there.
        trust
            As for `torusimaging_torch.results.BatchResult.read`.

        Raises
        ------
        ValueError
            If parts are missing, damaged, of another store or more than were asked for, or there is
            none; the message names them.
        """
        there = self.shards()
        expected = range(self.count() or (there[-1] + 1 if there else 0))
        missing = sorted(set(expected) - set(there))
        if self.count() and (more := sorted(set(there) - set(expected))):
            raise ValueError(
                f"the store in {self.folder} was made for {len(expected)} parts and has also the "
                f"parts {_listed(more)}: remove them, or run fit_many again with all subsamples"
            )
        if not there or ((missing or self.count() is None) and not partial):
            which = f"missing are the parts {_listed(missing)}" if missing else "it is not finished"
            raise ValueError(
                f"the store in {self.folder} is not complete, {which}: run fit_many again with "
                "this store, or merge with partial=True"
            )
        return BatchResult.concatenate([self.read(shard, trust=trust) for shard in there])

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            text = (self.folder / name).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError(f"{self.folder / name} is damaged: it is not JSON") from None

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        with replaced_file(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
            _sync(temporary)


def merge(
    folder: str | os.PathLike[str], partial: bool = False, trust: bool = False
) -> BatchResult:
    """Return all results of a store that `fit_many` filled; see `Store.merge`.

    Examples
    --------
    >>> from torusimaging_torch.batch import fit_many, merge
    >>> settings = {"model": "potential", "n_components": 3, "progress": False}
    >>> done = fit_many([data, data], store=f"{folder}/store", **settings)
    >>> len(merge(f"{folder}/store"))
    2
    """
    return Store(folder).merge(partial, trust)


def _sync(path: Path) -> None:
    """Have the disk hold a file before its name says so."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:10])
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"
