from headrace.runtime.errors import Exit

RESTART_DELAY_S = 0.5
RESTART_DELAY_S_MAX = 10.0
HEALTHY_S = 30.0
"""A process that ran this long before it ended starts its delays anew."""

QUOTA_DELAY_S = 60.0
QUOTA_DELAY_S_MAX = 600.0
"""Also how long a process has to run after its quota before that counts as over."""


class Backoff:
    """How long to wait before a process is started again: twice as long each time, within bounds.

    One that ended because too many of its messages were wrong waits long: it would go on where it ended, and turn a
    whole topic into dead letters a quota at a time, faster than anybody can look.
    """

    def __init__(self) -> None:
        self._delay_s = RESTART_DELAY_S
        self._quota_delay_s = QUOTA_DELAY_S

    def after(self, code: int, ran_s: float) -> float:
        """Return the seconds to wait after it ended with `code`, having run for `ran_s`."""
        if code == Exit.QUOTA:
            pause_s = QUOTA_DELAY_S if ran_s > QUOTA_DELAY_S_MAX else self._quota_delay_s
            self._quota_delay_s = min(pause_s * 2, QUOTA_DELAY_S_MAX)
            return pause_s
        pause_s = RESTART_DELAY_S if ran_s > HEALTHY_S else self._delay_s
        self._delay_s = min(pause_s * 2, RESTART_DELAY_S_MAX)
        return pause_s
