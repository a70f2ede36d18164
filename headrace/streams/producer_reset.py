"""How a transaction's work ends early in the relay and in the consumers alike."""


class ProducerResetError(Exception):
    """Something failed and what it left behind is not known: give the producer up and begin at what is committed."""
