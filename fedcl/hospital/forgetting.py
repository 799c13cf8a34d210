"""A hospital's part in forgetting another one: what it keeps of a run goes over or goes away."""

import logging
from pathlib import Path

from flwr.app import Context, Message

from fedcl import arrays
from fedcl.errors import RunError
from fedcl.files import write_atomically
from fedcl.hospital.store import SiteState
from fedcl.wire.forgetting import ForgetRequest, Kept

log = logging.getLogger("fedcl")


def forget(message: Message, context: Context) -> Message:
    """Say what is kept of a run; take it over into another and delete it where that is asked for.

    Files of fedcl's own names in the folder of the run are all that is touched, and what was
    received, which any run is sent again.
    """
    call, node = ForgetRequest.unpack(message.content), context.node_config
    site = str(node["site"])
    if "state-path" not in node:
        return Message(Kept(site).pack(), reply_to=message)
    folder = Path(str(node["state-path"]))
    old, new = SiteState(folder / call.run), SiteState(folder / call.successor)
    digests = {}
    for version in call.versions:
        file = old.file(version)
        try:
            digests[version] = arrays.digest(arrays.load_file(file))
        except RunError as error:  # it is not there, or damaged
            log.warning("%s: %s", call.run, error)
            continue
        if call.successor:
            write_atomically(new.file(version), file.read_bytes())
    gone = 0
    if call.delete:
        received = Path(str(node.get("received-path", folder / "received")))
        own = ("round-*.safetensors*", "report-*.safetensors*")
        files = [file for name in own for file in old.folder.glob(name)]
        files += received.glob("*.safetensors")
        for file in files:
            file.unlink(missing_ok=True)
        gone = len(files)
        log.info("%s: deleted %d files, of %s and of %s", call.run, gone, old.folder, received)
        if old.folder.is_dir() and not any(old.folder.iterdir()):
            old.folder.rmdir()
    return Message(Kept(site, digests, gone).pack(), reply_to=message)
