"""Whether the files a command names are there, before anything heavy is imported. Standard library only."""

from __future__ import annotations

from pathlib import Path

from core.types import UserError


def check_paths(
    manifest: str | Path | None = None, root: str | Path | None = None, table: str | Path | None = None
) -> None:
    """Looks for the manifest, its root folder and the table joined to it; None is not looked for.

    The pictures themselves are looked for by :meth:`core.data.manifest.Manifest.read`, which names each missing one.

    Raises:
        UserError: one of them is missing, is of the wrong kind, or the manifest is an empty file.
    """
    for key, value in (("manifest", manifest), ("manifest_options.table", table)):
        if value is None:
            continue
        path = Path(value)
        if path.is_dir():
            todo = f"give a CSV or Parquet file; the verb 'manifest' makes one with input='{path}'"
            raise UserError(f"{key} '{path}' is a folder, not a table", todo=todo)
        if not path.is_file():
            raise UserError(f"{key} '{path}' does not exist", todo=_nearest(path))
        if path.stat().st_size == 0:
            raise UserError(f"{key} '{path}' is an empty file: it has no rows", todo="give a table with a header")
    if root is not None and not Path(root).is_dir():
        raise UserError(f"manifest_options.root '{root}' is no folder", todo=_nearest(Path(root)))


def _nearest(path: Path) -> str:
    """Tells how far a path exists, which is where the typing error is."""
    parent = path.absolute().parent
    if parent.is_dir():
        return f"the folder '{parent}' is there, the name in it is wrong"
    while not parent.exists():
        parent = parent.parent
    return f"of its folders, '{parent}' is the last that exists"
