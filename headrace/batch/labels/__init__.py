from headrace.batch.labels.functions import labelling_function
from headrace.batch.labels.module import Module, load_module
from headrace.batch.labels.run import LabelResult, label
from headrace.batch.labels.view import RecordView

__all__ = ["LabelResult", "Module", "RecordView", "label", "labelling_function", "load_module"]
