"""Add the classifiers of mmrev to mmpretrain's model hub."""
CLASSIFICATION = 'Image Classification'


def add_classifiers() -> None:
    """Add the classifiers of mmrev's metafiles to mmpretrain's `ModelHub`, which does not support detectors.

    A model without published weights gets an address whose loader raises an error; mmpretrain would only warn, and
    continue with random weights.
    """
    from mmpretrain.apis.model import ModelHub
    from modelindex.load_model_index import load

    from mmrev.checkpoints import published
    index = load(str(published.INDEX))
    index.build_models_with_collections()
    for entry in index.models:
        model = published.find_model(entry.name)
        if CLASSIFICATION in model.tasks:
            entry.config, entry.weights = model.config_file, model.weights
            ModelHub._models_dict[model.name.lower()] = entry
