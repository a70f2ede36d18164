from headrace.ldo_sink.sink import LdoSink, SinkCounts, from_env

__all__ = ["LdoSink", "SinkCounts", "from_env"]
