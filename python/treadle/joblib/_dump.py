"""What joblib itself does: files with compressed pickles. It is imported at the first use."""

from __future__ import annotations

from typing import Any


def joblib() -> Any:
    """The package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import joblib  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        if error.name != "joblib":
            raise
        message = "this needs joblib itself, which is not installed: pip install 'treadle[joblib]'"
        raise ModuleNotFoundError(message, name="joblib") from None
    return joblib


def dump(value: Any, filename: Any, compress: Any = 0, protocol: int | None = None) -> list[str] | None:
    """`joblib.dump`: writes an object to a file, arrays apart; a list of the files' names.

    Source: python/treadle/joblib/_dump.py.
    """
    names: list[str] | None = joblib().dump(value, filename, compress=compress, protocol=protocol)
    return names


def load(filename: Any, mmap_mode: str | None = None, ensure_native_byte_order: bool | str = "auto") -> Any:
    """`joblib.load`: reads what `dump` wrote. It is a pickle: load what you trust.

    Source: python/treadle/joblib/_dump.py.
    """
    # joblib has this parameter from 1.5 on.
    order = {} if ensure_native_byte_order == "auto" else {"ensure_native_byte_order": ensure_native_byte_order}
    return joblib().load(filename, mmap_mode=mmap_mode, **order)


def register_compressor(compressor_name: str, compressor: Any, force: bool = False) -> None:
    """`joblib.register_compressor`: makes a compressor known by a name, for `dump`.

    Source: python/treadle/joblib/_dump.py.
    """
    joblib().register_compressor(compressor_name, compressor, force=force)
