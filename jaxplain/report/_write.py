"""The one public function: stores in, one file out."""

import os
import pathlib
import tempfile
from collections.abc import Sequence

from jaxplain.report import _page, _read


def write(
    stores: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
) -> pathlib.Path:
    """Writes one self-contained HTML page on a store, or on several that are compared.

        page = summary, distribution of the errors, deletion and insertion, pictures of examples

    What is in the stores is shown, and what is not is said: quality that was not measured, examples
    that are not finite, runs that are not finished. Arrays are read block by block, so that a store
    may be larger than memory. Examples are ranked by insertion area minus deletion area where these
    were measured, else by the completeness gap; the random ones are the same at each writing.

    Args:
        stores: the folder of a store, or several. Those of the same data are shown side by side, in
            the order given; the ranking is that of the first.
        out: the file to write. One that is there is replaced, in one step at the end.
        title: the title of the page; made from the names of the model and the data unless given.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no store at one of the paths.
        ImportError: matplotlib is not installed, and there are pictures to draw.
        IsADirectoryError: `out` is a folder.
        OSError: the file cannot be written.
        ValueError: no store is named, or a path is no store or of an unknown version.

    Example:
        >>> import jax.numpy as jnp, numpy as np, pathlib, tempfile
        >>> import jaxplain
        >>> explain = jaxplain.saliency(lambda x: jnp.sum(x**2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = pathlib.Path(folder) / "saliency"
        ...     x = np.ones((3, 8, 8, 1), np.float32)
        ...     summary = jaxplain.run.map(explain, x, store, progress=False)
        ...     page = write(store, pathlib.Path(folder) / "report.html")
        ...     page.name, "<h1>" in page.read_text(encoding="utf-8")
        ('report.html', True)

    References:
        Mitchell et al., "Model Cards for Model Reporting", FAT* 2019: one page that says what was
        run, on what, and how well it did.
    """
    path = pathlib.Path(out)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the file to write, such as report.html.")
    html = _page.page(_read.open_runs(stores), title)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A reader sees the old page or the new one, whole.
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(html)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        pathlib.Path(partial).unlink(missing_ok=True)
        raise
    return path
