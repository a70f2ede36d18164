from headrace.ldo_sink.environment import from_env
from headrace.ldo_sink.sink import Counts, LdoSink

__all__ = ["Counts", "LdoSink", "from_env"]
