"""What a model does on rows it was not trained on: item scores, task metrics, fidelity to the teacher."""

from tutelage.evaluate.answer_items import (
    AnswerItems,
    answer_metrics,
    read_answer_items,
    score_replies,
    write_answer_items,
)
from tutelage.evaluate.answering import Reply, answer_prompts, answer_stops
from tutelage.evaluate.choices import ChoiceScores, score_choices
from tutelage.evaluate.classification import (
    evaluate_classification,
    items_from_scores,
    teacher_items_from_scores,
)
from tutelage.evaluate.fidelity import FIDELITY_SIGNALS, fidelity
from tutelage.evaluate.items import Items, read_items, write_items
from tutelage.evaluate.likelihood import RowLikelihoods, row_likelihoods, sums_by_row, target_counts
from tutelage.evaluate.metrics import METRICS, accuracy, expected_calibration_error, macro_f1, metrics, valid_ratio
from tutelage.evaluate.own_answers import OwnAnswer, own_answers
from tutelage.evaluate.text_items import TextItems, read_text_items, text_items, text_metrics, write_text_items

__all__ = [
    "FIDELITY_SIGNALS",
    "METRICS",
    "AnswerItems",
    "ChoiceScores",
    "Items",
    "OwnAnswer",
    "Reply",
    "RowLikelihoods",
    "TextItems",
    "accuracy",
    "answer_metrics",
    "answer_prompts",
    "answer_stops",
    "evaluate_classification",
    "expected_calibration_error",
    "fidelity",
    "items_from_scores",
    "macro_f1",
    "metrics",
    "own_answers",
    "read_answer_items",
    "read_items",
    "read_text_items",
    "row_likelihoods",
    "score_choices",
    "score_replies",
    "sums_by_row",
    "target_counts",
    "teacher_items_from_scores",
    "text_items",
    "text_metrics",
    "valid_ratio",
    "write_answer_items",
    "write_items",
    "write_text_items",
]
