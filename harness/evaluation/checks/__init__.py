"""Sanity checks of a robustness evaluation: gradient masking, weak attacks, inconsistent scores, maps of no net.

    check(evidence) -> Check      by name in `registry.CHECKS`; `run_checks` collects the evidence

A check never alters a score. Its verdict is pass, doubt (failed) or not asked (not applicable), with one sentence.
After Carlini et al. (2019, On Evaluating Adversarial Robustness), Athalye et al. (2018, Obfuscated Gradients), the
warnings of Croce and Hein's AutoAttack (2020), and Adebayo et al. (2018, Sanity Checks for Saliency Maps).
"""
