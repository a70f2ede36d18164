from headrace.streams.relay.app import relay

__all__ = ["relay"]
