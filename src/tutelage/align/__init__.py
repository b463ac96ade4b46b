"""Put the student's and the teacher's grids (positions, vocabularies) onto one.

In: target masks, token ids, tokenizers. Out: logit indices, or an ``AlignmentError`` that names
the first place where the two grids part.
"""

from tutelage.align.keys import check_key
from tutelage.align.positions import logit_indices
from tutelage.align.vocabulary import check_ids, check_padding_only, check_same_tokenizer

__all__ = ["check_ids", "check_key", "check_padding_only", "check_same_tokenizer", "logit_indices"]
