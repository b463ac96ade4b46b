"""Training: batch plan -> step -> loop -> checkpoint.

In: a student, its rows and what a teacher says about them. Out: trained weights and a ``TrainResult``.
"""
