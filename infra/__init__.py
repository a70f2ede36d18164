"""What runs Headrace: the native stack of a development machine, and the parts of a deployment."""
