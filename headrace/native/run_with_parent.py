"""Run a program that receives a signal when its parent ends: `python run_with_parent.py SIGNAL PARENT UID:GID ARGV...`.

The kernel sends the signal (`PR_SET_PDEATHSIG`, Linux) when the supervisor ends, however it ends, so a killed
supervisor leaves nothing running. A change of the user clears the setting, therefore this script changes the user
itself and then replaces itself with the program. It is a program of its own because Python code between fork and exec
is not safe in a process with threads. It imports nothing of the project, so it starts with `-I -S`.

On other systems the program runs without the setting; the next `headrace up` or `headrace down` ends it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_COULD_NOT_START = 127


def main(arguments: list[str]) -> None:
    """Replace this process with the program; exit 127 if it cannot be started or the parent has ended already."""
    parent_signal, parent, account, *argv = arguments
    if account != "-":
        user_id, group_id = map(int, account.split(":"))
        os.setgroups([])
        os.setgid(group_id)
        os.setuid(user_id)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(parent_signal))
        if os.getppid() != int(parent):
            sys.exit(_COULD_NOT_START)
    # Python ignores these two, and a program inherits what is ignored.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - replacing this process is its purpose
    except OSError as error:
        sys.exit(_failure(argv[0], error))


def _failure(program: str, error: OSError) -> int:
    sys.stderr.write(f"{program} could not be started: {error}\n")
    return _COULD_NOT_START


if __name__ == "__main__":
    main(sys.argv[1:])
