"""Which networks of the menu are tried with real weights: every builder and every kind of block once."""

import info_dicts

# They differ from VGG11, ResNet18, ResNet50 and ResNet18-noskip in how many blocks there are; their counts and shapes are tested.
DEEPER = ("VGG13", "VGG16", "VGG19", "ResNet34", "ResNet101", "ResNet152", "ResNet34-noskip")
# Narrow variants are these networks at another width.
MODELS = [model for model in info_dicts.MODELS.values() if model not in DEEPER and "width" not in model.facts]
# Where the published width is no part of the claim: the same code with a sixteenth of the parameters.
QUICK = dict.fromkeys(("InceptionV3", "ResNet18", "ResNet50", "VGG11", "ResNet18-noskip", "ResNet18-stem3-w64"), 0.25)
