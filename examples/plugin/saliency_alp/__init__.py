"""A method, a net, a map, a suite, a data set and a study of one's own: a template for a package of plug-ins."""
