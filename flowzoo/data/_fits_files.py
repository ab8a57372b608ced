"""The table of a FITS file, read by astropy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data._lazy import Lazy
from flowzoo.data._numpy_files import missing_reader, unreadable


@contextmanager
def open_fits(file: Path) -> Iterator[Mapping[str, Any]]:
    """The columns of the first table of a file; numbers that are undefined (TNULL, blanks in a text) are NaN.

    Raises:
        MissingDependency: without astropy.
        ValueError: if it is no FITS file, is cut off, or has no table.
    """
    try:
        from astropy.io import fits
    except ImportError:
        raise missing_reader(file, "astropy", "fits") from None

    try:
        with _whole():
            hdus = fits.open(file)
    except Exception as error:
        raise unreadable(file, error) from None
    with hdus:
        try:
            with _whole():
                # Headers are read one after another.
                table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)), None)
        except Exception as error:
            raise unreadable(file, error) from None
        if table is None:
            raise ValueError(f"{file}: it has no table, but {', '.join(type(hdu).__name__ for hdu in hdus)}")

        def read(name: str) -> np.ndarray:
            with _whole():
                array = np.asarray(table.data[name])
            null = table.columns[name].null
            if isinstance(table, fits.TableHDU) and array.dtype.kind in "if":  # of text; astropy reads a gap as 0
                text = np.strings.strip(table.data.view(np.ndarray)[name])
                gone = (text == b"") | (text == str(null or "").strip().encode())
            else:  # of numbers before they are scaled
                gone = np.asarray(null is not None and table.data.view(np.ndarray)[name] == null)
            if gone.any():
                return np.where(gone, np.nan, array)
            return array.astype(array.dtype.newbyteorder("="))  # of a file they are big-endian

        yield Lazy(list(table.columns.names), read)


@contextmanager
def _whole() -> Iterator[None]:
    """A file that is cut off is only a warning of astropy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*truncated")
        yield
