"""References to results: what `call_and_shelve` gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ._log import Logger, pformat
from ._stores_known import open_store


class MemorizedResult(Logger):
    """A result that stays in its store until it is asked for; small, and picklable.

    Args:
        location: the store, or where it is.
        call_id: the identifiers of the function and of the call.
        backend: the kind of store.
        mmap_mode: how arrays are read, as in `Memory`.
        verbose: messages; 0 for none.
        timestamp: seconds since 1970 from which messages count.
        metadata: what is known about the call, where that is at hand.

    Source: python/treadle/joblib/_results.py.
    """

    __module__ = "treadle.joblib"

    def __init__(
        self,
        location: Any,
        call_id: Sequence[str],
        backend: str = "local",
        mmap_mode: str | None = None,
        verbose: int = 0,
        timestamp: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._call_id = tuple(call_id)
        self.store_backend = open_store(backend, location, verbose, {"mmap_mode": mmap_mode})
        self.mmap_mode = mmap_mode
        self.metadata: dict[str, Any] = (
            metadata if metadata is not None else self.store_backend.get_metadata(self._call_id)
        )
        self.duration = self.metadata.get("duration")
        self.verbose = verbose
        self.timestamp = timestamp

    @property
    def func(self) -> str:
        """The identifier of the function."""
        return self._call_id[0]

    @property
    def func_id(self) -> str:
        """The identifier of the function."""
        return self._call_id[0]

    @property
    def args_id(self) -> str:
        """The identifier of the call."""
        return self._call_id[1]

    def get(self) -> Any:
        """The result, read from the store.

        Raises:
            KeyError: it is not there any more, or was corrupted.
        """
        try:
            return self.store_backend.load_item(
                self._call_id, timestamp=self.timestamp, metadata=self.metadata, verbose=self.verbose
            )
        except (ValueError, EOFError) as error:
            place = os.path.join(self.store_backend.location, *self._call_id)
            text = "Error while trying to load a MemorizedResult's value. It seems that this folder is corrupted"
            raise KeyError(f"{text}: {place}") from error

    def clear(self) -> None:
        """Removes it from the store."""
        self.store_backend.clear_item(self._call_id)

    def __repr__(self) -> str:
        place = self.store_backend.location
        return f'{type(self).__name__}(location="{place}", func="{self.func_id}", args_id="{self.args_id}")'

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "timestamp": None}


class NotMemorizedResult:
    """Stands for a `MemorizedResult` where there is no store: it has the value itself.

    Source: python/treadle/joblib/_results.py.
    """

    __module__ = "treadle.joblib"
    __slots__ = ("valid", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.valid = True

    def get(self) -> Any:
        """The value.

        Raises:
            KeyError: it was cleared.
        """
        if not self.valid:
            raise KeyError("No value stored.")
        return self.value

    def clear(self) -> None:
        """Forgets the value."""
        self.valid = False
        self.value = None

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({pformat(self.value)})" if self.valid else f"{name} with no value"

    def __getstate__(self) -> dict[str, Any]:
        return {"valid": self.valid, "value": self.value}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.valid, self.value = state["valid"], state["value"]
