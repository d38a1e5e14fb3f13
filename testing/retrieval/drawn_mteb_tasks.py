"""Two small tasks of mteb whose clips and captions are a test's own; slow to import, as mteb is."""

from datasets import ClassLabel, Dataset, DatasetDict, Video
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata


def about(name, **changes):
    values = {
        "name": name,
        "description": "drawn clips",
        "dataset": {"path": "here", "revision": "1"},
        "type": "Any2AnyRetrieval",
        "category": "t2v",
        "modalities": ["text", "video"],
        "eval_splits": ["test"],
        "eval_langs": ["eng-Latn"],
        "main_score": "recall_at_1",
        "date": ("2026-01-01", "2026-01-02"),
        "domains": [],
        "task_subtypes": [],
        "license": "cc0-1.0",
        "annotations_creators": "derived",
        "dialect": [],
        "sample_creation": "created",
        "bibtex_citation": "",
        "reference": "https://example.org",
    }
    return TaskMetadata(**values | changes)


class DrawnT2V(AbsTaskRetrieval):
    metadata = about("DrawnT2V")
    k_values = (1, 5, 10)

    def __init__(self, records):
        super().__init__()
        self.records = records

    def load_data(self, **options):
        ids = [record.video_id for record in self.records]
        queries = {"id": ids, "text": [record.captions[0] for record in self.records]}
        corpus = {"id": ids, "video": [str(record.path) for record in self.records]}
        split = {
            "queries": Dataset.from_dict(queries),
            "corpus": Dataset.from_dict(corpus).cast_column("video", Video()),
            "relevant_docs": {name: {name: 1} for name in ids},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class DrawnClasses(AbsTaskClassification):
    metadata = about(
        "DrawnClasses",
        type="VideoClassification",
        category="v2c",
        modalities=["video"],
        main_score="accuracy",
    )
    input_column_name = "video"
    samples_per_label = 4
    n_experiments = 2

    def __init__(self, records):
        super().__init__()
        self.records = records

    def load_data(self, **options):
        colours = ["red" in record.captions[0].split() for record in self.records]
        paths = [str(record.path) for record in self.records]
        rows = Dataset.from_dict({"video": paths, "label": [int(red) for red in colours]})
        rows = rows.cast_column("video", Video()).cast_column("label", ClassLabel(num_classes=2))
        self.dataset = DatasetDict(train=rows, test=rows)
        self.data_loaded = True
