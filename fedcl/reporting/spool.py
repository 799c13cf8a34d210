"""What is still to be told to a store that may be away: on disk, in the background."""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger("fedcl")

Entry = dict[str, Any]
PAUSE = (0.5, 10.0)
"""Seconds between two tries to deliver, at first and at most."""


class Spool:
    """Delivers entries one after the other while the work that they are about goes on.

    One that is not taken goes to the end of the queue, so that it keeps no other one waiting:
    none may depend on one before it.

    An entry is written to a file before it counts as told, and that file is removed when all of
    it has been delivered; what an earlier process left there is delivered first. An entry may be
    delivered twice after a crash: telling it again must do no harm.

    Args:
        file: JSON, an entry per line.
        deliver: delivers one; whatever it raises means that it is to be tried again.
        store: what it is delivered to, for messages.

    Attributes:
        waiting: what is not delivered yet.
    """

    def __init__(self, file: Path, deliver: Callable[[Entry], None], store: str) -> None:
        self.file, self.deliver, self.store = file, deliver, store
        text = file.read_text() if file.exists() else ""
        self.waiting: deque[Entry] = deque(_entries(text, file))
        self._ragged = bool(text) and not text.endswith("\n")
        self._change = threading.Condition()
        self._stopped = False
        self._troubled = False
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Have `entry` delivered; it is on disk when this returns, if it can be written."""
        with self._change:
            try:
                with self.file.open("a") as file:
                    file.write("\n" * self._ragged + json.dumps(entry) + "\n")
                self._ragged = False
            except OSError as error:  # it can still be delivered, only not after a crash
                log.warning("%s: cannot be written (%s)", self.file, error.strerror or error)
            self.waiting.append(entry)
            self._change.notify_all()

    def drain(self, patience: float) -> int:
        """Wait until all is delivered, for so many seconds; return how much is left."""
        with self._change:
            self._change.wait_for(lambda: not self.waiting, patience)
            return len(self.waiting)

    def close(self, patience: float) -> int:
        """Deliver what can be in so many seconds, then stop; return how much is left."""
        left = self.drain(patience)
        with self._change:
            self._stopped = True
            self._change.notify_all()
        return left

    def _work(self) -> None:
        pause = PAUSE[0]
        while True:
            with self._change:
                self._change.wait_for(lambda: self.waiting or self._stopped)
                if self._stopped:
                    return
                entry = self.waiting[0]
            try:
                self.deliver(entry)
            except Exception as error:  # whoever stores it may fail in any way, and be back later
                self._report(error)
                with self._change:
                    self.waiting.rotate(-1)
                    self._change.wait_for(lambda: self._stopped, pause)
                pause = min(2 * pause, PAUSE[1])
                continue
            pause = PAUSE[0]
            with self._change:
                self.waiting.remove(entry)
                if not self.waiting:
                    if self._troubled:
                        self._troubled = False
                        log.warning("%s has been told all that was kept for it", self.store)
                    self._forget()
                    self._change.notify_all()

    def _forget(self) -> None:
        """Remove the file; where that fails, its entries are only delivered once more later."""
        try:
            self.file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: cannot be removed (%s)", self.file, error.strerror or error)

    def _report(self, error: Exception) -> None:
        """Say once what is wrong, until it is over."""
        if not self._troubled:
            self._troubled = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning(
                "%s takes nothing at present (%s); the run goes on, what it is to be told is kept "
                "in %s",
                self.store, reason, self.file,
            )  # fmt: skip
        log.debug("not delivered", exc_info=error)


def _entries(text: str, file: Path) -> list[Entry]:
    """Return the entries that were left; of the last line a crash may have written half."""
    entries = []
    for line in text.splitlines():
        try:
            entries.append(dict(json.loads(line)))
        except ValueError:
            log.warning("%s: a line cannot be read and is left out", file)
    return entries
