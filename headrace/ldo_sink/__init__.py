from headrace.ldo_sink.environment import from_env
from headrace.ldo_sink.sink import LdoSink, SinkCounts

__all__ = ["LdoSink", "SinkCounts", "from_env"]
