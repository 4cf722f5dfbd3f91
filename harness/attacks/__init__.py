"""Adversarial attacks on predictions (PGD, CW, stAdv, AutoAttack) and on attribution maps.

Imports: explain, models, randomness, errors. Attacks are functions of a net and tensors; none reads settings.
"""
