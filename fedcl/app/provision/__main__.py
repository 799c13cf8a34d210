"""What the server's start script calls beside the SuperLink: it is told who belongs to it."""

import sys
from pathlib import Path

from fedcl.app.provision.hospitals import agree, tell_gate
from fedcl.errors import FedclError

PATIENCE = 600.0  # seconds; a SuperLink that is not there by then has said why

if __name__ == "__main__":
    server = Path(sys.argv[1])
    try:
        tell_gate(server)
        changed = agree(server, PATIENCE)
    except FedclError as error:
        sys.exit(f"fedcl: {error}")
    print("\n".join(["fedcl: the hospitals are known", *changed]), flush=True)
