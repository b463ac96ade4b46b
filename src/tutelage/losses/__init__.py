"""Pure losses: student tensors and a teacher signal in, a sum and a count out.

In: logits or hidden states at N supervised positions, labels, a ``TeacherSignal``. Out: ``LossSum``, ``HeadLosses``.
Nothing here runs a model's body, reads a configuration or divides.
"""

from tutelage.losses.capabilities import CAPABILITIES, check_capability
from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.divergences import jsd, reverse_kl, skew_kl, skew_reverse_kl, total_variation
from tutelage.losses.events import teacher_logits
from tutelage.losses.forward_kl import dense_forward_kl, forward_kl, sampled_forward_kl, topk_forward_kl
from tutelage.losses.kd import kd_loss, topk_record
from tutelage.losses.plain import HeadLosses, head_losses
from tutelage.losses.registry import LOSSES, STATE_LOSSES
from tutelage.losses.relation import relation_angle, relation_distance
from tutelage.losses.state_capabilities import STATE_CAPABILITIES, check_state_capability
from tutelage.losses.states import hidden_cosine, hidden_mse, hidden_normalised_mse
from tutelage.types import ClassScores, FinalHidden, LossSum, OutputHead, Sampled, TopK

__all__ = [
    "CAPABILITIES",
    "LOSSES",
    "STATE_CAPABILITIES",
    "STATE_LOSSES",
    "ClassScores",
    "FinalHidden",
    "HeadLosses",
    "LossSum",
    "OutputHead",
    "Sampled",
    "TopK",
    "check_capability",
    "check_state_capability",
    "cross_entropy",
    "dense_forward_kl",
    "forward_kl",
    "head_losses",
    "hidden_cosine",
    "hidden_mse",
    "hidden_normalised_mse",
    "jsd",
    "kd_loss",
    "relation_angle",
    "relation_distance",
    "reverse_kl",
    "sampled_forward_kl",
    "skew_kl",
    "skew_reverse_kl",
    "teacher_logits",
    "topk_forward_kl",
    "topk_record",
    "total_variation",
]
