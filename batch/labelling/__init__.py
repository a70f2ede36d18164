from batch.labelling.functions import labelling_function
from batch.labelling.module import Module, load_module
from batch.labelling.run import Result, label
from batch.labelling.view import RecordView

__all__ = ["Module", "RecordView", "Result", "label", "labelling_function", "load_module"]
