from headrace.bench.figures import Figure, as_json, rows
from headrace.bench.run import CASES, Options, run

__all__ = ["CASES", "Figure", "Options", "as_json", "rows", "run"]
