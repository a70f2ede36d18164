from headrace.bench.figures import Figure, as_json, rows
from headrace.bench.run import CASES, BenchOptions, run

__all__ = ["CASES", "BenchOptions", "Figure", "as_json", "rows", "run"]
