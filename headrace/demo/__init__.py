from headrace.demo.report import DemoReport, as_json
from headrace.demo.run import DemoOptions, run
from headrace.demo.table import next_steps, rows, verdict

__all__ = ["DemoOptions", "DemoReport", "as_json", "next_steps", "rows", "run", "verdict"]
