"""Attribution maps, their similarity, and weakly supervised localisation from them.

Imports: models, errors.
"""
