"""Put the student's and the teacher's grids (positions, vocabularies, layers) onto one.

In: target masks, token ids, tokenizers, layer numbers. Out: logit indices, pairs of layers, or an
``AlignmentError`` that names the first place where the two grids part.
"""

from tutelage.align.control_tokens import Encoded, control_tokens, encode_texts, encode_with_offsets
from tutelage.align.keys import check_key
from tutelage.align.layers import layer_pairs
from tutelage.align.positions import logit_indices, row_places, token_index
from tutelage.align.vocabulary import Reader, VocabularyDifference, check_ids, compare_vocabularies, num_token_ids

__all__ = [
    "Encoded",
    "Reader",
    "VocabularyDifference",
    "check_ids",
    "check_key",
    "compare_vocabularies",
    "control_tokens",
    "encode_texts",
    "encode_with_offsets",
    "layer_pairs",
    "logit_indices",
    "num_token_ids",
    "row_places",
    "token_index",
]
