"""Files and folders of this host, for what cleans up and what reads along."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileInfo:
    path: str
    size: int
    """Bytes on disk, which is what deleting it gives back."""
    modified: float
    """Wall-clock seconds."""


class Files(Protocol):
    async def list(self, folder: str, pattern: str) -> Sequence[FileInfo]:
        """Regular files below the folder whose name matches the glob. Links are neither followed nor listed.

        OSError when there is no such folder, or it is a link.
        """
        ...

    async def delete(self, folder: str, path: str) -> int:
        """Deletes one regular file that truly lies inside the folder; the bytes freed, 0 when it is gone already.

        Raises StepRefused for any other. Links in the way are never followed, and a file swapped for a link between
        look and act is left alone.
        """
        ...

    def follow(self, path: str) -> AsyncIterator[str]:
        """Lines appended from now on, through rotation and truncation; waits for a file that is not there yet."""
        ...

    def follow_journal(self, unit: str | None) -> AsyncIterator[str]:
        """Messages that reach systemd's journal from now on. Raises ProbeFailed when there is no readable journal."""
        ...
