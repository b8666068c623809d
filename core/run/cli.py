"""The console script: ``trivium <domain> <verb> [key=value ...]``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from core.run.entry import HELP, check_siblings, find_domain
from core.run.entry import main as run_verb
from core.run.errors import OK, USER, report
from core.run.help import VERBS, overview
from core.types import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Finds domain and verb and runs it; without them, says what there is. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a domain of one's own may lie in the working folder; last, so it hides nothing
    words: list[str] = []
    while arguments and len(words) < 2 and "=" not in arguments[0] and not arguments[0].startswith("-"):
        words.append(arguments.pop(0))
    if len(words) < 2:
        print(overview())
        return OK if any(argument in HELP for argument in arguments) else USER
    domain, verb = words
    try:
        check_siblings()
        find_domain(domain)
        if verb not in VERBS:
            raise UserError(f"there is no verb '{verb}'", todo=f"choose from {', '.join(VERBS)}")
    except UserError as error:
        return report(error)
    return run_verb(domain, verb, arguments)


if __name__ == "__main__":
    sys.exit(main())
