from headrace.demo.report import DemoReport, as_json, next_steps, rows, verdict
from headrace.demo.run import DemoOptions, run

__all__ = ["DemoOptions", "DemoReport", "as_json", "next_steps", "rows", "run", "verdict"]
