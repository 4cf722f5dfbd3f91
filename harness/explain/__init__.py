"""Attribution maps, their similarity, and weakly supervised localisation from them.

`maps.py` has the table of all maps; each is one class, used detached for training, pictures and localisation, and with
its graph by attacks on attributions. Imports: models, errors.
"""
