"""Sources, templates, rows, the batch plan and batches."""

from tutelage.data.collate import batch_to, collate, teacher_row
from tutelage.data.counts import data_lines
from tutelage.data.examples import Example
from tutelage.data.plan import BatchPlan, MicroBatch, Step, reading_batches
from tutelage.data.prepare import PreparedTask, Task, prepare_task, read_prepared, write_prepared
from tutelage.data.preview import sample_rows_text
from tutelage.data.reading import Question, ReadingTask
from tutelage.data.reading_rows import ReadingPrompt, reading_prompts, reading_rows
from tutelage.data.records import Loaded, Record, RowRules, SourceInfo
from tutelage.data.rows import ChoicePrompt, Rows, check_verbalisers, choice_prompts, classification_rows, student_row
from tutelage.data.sources import load_records, open_source
from tutelage.data.task import ClassificationTask, Prompt
from tutelage.data.text_pools import TextCuts, TextPart
from tutelage.data.text_prepare import prepare_texts
from tutelage.data.text_rows import TurnTokens, conversation_rows, document_rows, plain_turns
from tutelage.data.texts import TextItem, TextTask, Turn
from tutelage.data.written_rows import WrittenAnswer, written_rows

__all__ = [
    "BatchPlan",
    "ChoicePrompt",
    "ClassificationTask",
    "Example",
    "Loaded",
    "MicroBatch",
    "PreparedTask",
    "Prompt",
    "Question",
    "ReadingPrompt",
    "ReadingTask",
    "Record",
    "RowRules",
    "Rows",
    "SourceInfo",
    "Step",
    "Task",
    "TextCuts",
    "TextItem",
    "TextPart",
    "TextTask",
    "Turn",
    "TurnTokens",
    "WrittenAnswer",
    "batch_to",
    "check_verbalisers",
    "choice_prompts",
    "classification_rows",
    "collate",
    "conversation_rows",
    "data_lines",
    "document_rows",
    "load_records",
    "open_source",
    "plain_turns",
    "prepare_task",
    "prepare_texts",
    "read_prepared",
    "reading_batches",
    "reading_prompts",
    "reading_rows",
    "sample_rows_text",
    "student_row",
    "teacher_row",
    "write_prepared",
    "written_rows",
]
