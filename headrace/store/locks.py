"""The numbers of all advisory locks: PostgreSQL keeps one space of them for each database."""

from zlib import crc32

ENTER_LOCK = 0x48_52_45_4E  # "HREN": shared by every transaction that adds blobs, exclusive for marking
COLLECTOR_LOCK = 0x48_52_43_4F  # "HRCO": held by the one process that moves or deletes objects
REDRIVE_LOCK = 0x48_52_52_44  # "HRRD": one redrive at a time keeps the order of each source
LOST_LOCK = 0x48_52_4C_4F  # "HRLO": held while ranges are merged
LEADER_LOCK = 0x48_52_52_4C  # "HRRL": held by the relay that publishes
EVENTS_LOCK = 0x48_52_45_56  # "HREV": held while events of requests are numbered
SWEEP_LOCK = 0x48_52_53_57  # "HRSW": held by the gateway that deletes expired uploads
MIGRATE_LOCK = 0x48_52_4D_47  # "HRMG": one number for every Headrace, so two migrations of a database take turns
MAINTENANCE_LOCK = 0x48_52_4D_54  # "HRMT": held by the process that carries out the jobs of the day
TRANSFER_LOCK = 0x48_52_54_46  # "HRTF": held by the process that brings bodies from sites
ROLES_LOCK = 0x48_52_52_4F  # "HRRO": held while the roles get their privileges in this database
REBUILD_LOCK = 0x48_52_52_42  # "HRRB": held while a topic is rebuilt; relays that see it give up the leader lock
_BACKFILL = 0x48_52_42_46  # "HRBF"
_REPLAY = 0x48_52_52_50  # "HRRP"


def backfill_lock(group: str) -> int:
    """Return the number of the lock that the process has which backfills a consumer group."""
    return _numbered(_BACKFILL, group)


def replay_lock(name: str) -> int:
    """Return the number of the lock that the process has which carries out a replay."""
    return _numbered(_REPLAY, name)


def _numbered(first: int, name: str) -> int:
    return first << 32 | crc32(name.encode())
