"""The common corruptions of Hendrycks and Dietterich (ICLR 2019), by family: noise, blur, weather, digital.

`names` lists them, `registry` maps names to functions; `published_files` reads the original CIFAR-10-C arrays.
"""
