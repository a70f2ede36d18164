import json
from collections import Counter
from functools import partial
from random import Random

from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from tests.commands import run_as_process
from tests.faults.line import MESSAGES, Line
from tests.faults.registry import line_experiment
from tests.standby import Standby
from tests.waiting import until

_REPLICATED_S_MAX = 60.0


@line_experiment("E23", "the catalog is restored to an earlier moment, and `headrace recover`", ci=1, long=20)
def restore_catalog(line: Line, count: int, random: Random) -> Counter[str]:
    """Go back to a copy of the catalog, and only of it; nothing is lost and nothing is announced twice."""
    line.start()
    for _ in range(count):
        _publish(line, random)
        line.stop()
        older = line.copied_catalog()
        _lose(line, random)
        _recover(line, older)
    return Counter({"catalog restored": count})


@line_experiment("E24", "failover to a lagging standby, and `headrace recover`", ci=1, long=10)
def fail_over(line: Line, count: int, random: Random) -> Counter[str]:
    """Promote a standby that lacks the last transactions; nothing is lost and nothing is announced twice."""
    line.start()
    for _ in range(count):
        standby = line.resources.enter_context(Standby.of(line.settings))
        standby.start()
        _publish(line, random)
        until(partial(_replicated, line), _REPLICATED_S_MAX, "replication")
        standby.stop()
        line.stop()
        _lose(line, random)
        standby.start("-c", "primary_conninfo=")
        standby.promote()
        _recover(line, standby.settings)
    return Counter({"standby promoted": count})


def _replicated(line: Line) -> bool:
    rows = line.sql("select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), replay_lsn) <= 0 from pg_stat_replication")
    return [row[0] for row in rows] == [True]


def _publish(line: Line, random: Random) -> None:
    line.publish(line.plan(), random.randint(MESSAGES // 2, MESSAGES))
    line.settle()


def _lose(line: Line, random: Random) -> None:
    """Ingest and announce what the older catalog lacks, and leave something in the topics."""
    line.start()
    _publish(line, random)
    line.stop()
    line.publish(line.plan(), MESSAGES // 4)


def _recover(line: Line, older: Settings) -> None:
    line.exchange_catalog(older)
    result = run_as_process(older, "recover", "--json")
    assert result.code == Exit.OK, f"headrace recover ended with {result.code}: {result.err}"
    assert result.json["announced"] > 0, f"nothing was lost: {json.dumps(result.json)}"
    line.start()
    line.settle()
    # What the older catalog does not name must not be what announcements name.
    without_grace = older.model_copy(update={"collect_grace_hours": 0.0, "quarantine_days": 0.0})
    run_as_process(without_grace, "fsck", "--repair", "--force")
    run_as_process(without_grace, "fsck", "--repair", "--force")
