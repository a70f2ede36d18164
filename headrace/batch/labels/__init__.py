from headrace.batch.labels.functions import LabelModule, labelling_function, load_module
from headrace.batch.labels.run import LabelRequest, LabelResult, label
from headrace.batch.labels.view import RecordView

__all__ = ["LabelModule", "LabelRequest", "LabelResult", "RecordView", "label", "labelling_function", "load_module"]
